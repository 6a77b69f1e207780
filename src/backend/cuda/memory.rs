//! The memory of a device.

use super::Cuda;
use crate::backend::{Memory, Offload};
use crate::error::BackendError;
use crate::memory::{HostMemory, MappedFile, Span};

impl Memory for Cuda {
    fn allocate(&mut self, bytes: usize, _: Option<MappedFile>, workspace: Span) -> Result<(), BackendError> {
        self.gpu.allocate(bytes, workspace)
    }

    fn status(&self) -> Result<(), BackendError> {
        self.gpu.status()
    }

    fn upload(&mut self, bytes: &[u8], to: Span) {
        self.gpu.upload(bytes, to);
    }

    fn download(&self, from: Span, bytes: &mut [u8]) {
        self.gpu.download(from, bytes);
    }

    fn zero(&mut self, span: Span) {
        self.gpu.zero(span);
    }

    fn copy(&mut self, from: Span, to: Span) {
        self.gpu.copy(from, to);
    }
}

impl Offload for Cuda {
    fn attach(&mut self, host: HostMemory) -> Result<(), BackendError> {
        self.gpu.attach(host)
    }

    fn prefetch(&mut self, host: Span, to: Span) {
        self.gpu.prefetch(host, to);
    }

    fn wait(&mut self, host: Span, to: Span) {
        self.gpu.wait(host, to);
    }

    fn write_back(&mut self, from: Span, host: Span, changed: bool) {
        self.gpu.write_back(from, host, changed);
    }

    fn advise_cold(&self, span: Span) {
        self.gpu.advise_cold(span);
    }
}
