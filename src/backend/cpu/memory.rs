//! The memory of a CPU: its arena, and host memory that is used in place.

use super::Cpu;
use crate::backend::{Memory, Offload};
use crate::error::BackendError;
use crate::memory::{Arena, HostMemory, MappedFile, Place, Span};

impl Memory for Cpu {
    fn allocate(&mut self, bytes: usize, mapped: Option<MappedFile>, workspace: Span) -> Result<(), BackendError> {
        self.arena = match mapped {
            Some(mapped) => Arena::with_mapped(bytes, mapped),
            None => Arena::new(bytes),
        };
        self.workspace = workspace;
        Ok(())
    }

    fn status(&self) -> Result<(), BackendError> {
        Ok(())
    }

    fn upload(&mut self, bytes: &[u8], to: Span) {
        self.arena.borrow_slices().write(to).copy_from_slice(bytes);
    }

    fn download(&self, from: Span, bytes: &mut [u8]) {
        bytes.copy_from_slice(self.arena.read(from));
    }

    fn zero(&mut self, span: Span) {
        self.arena.borrow_slices().write::<u8>(span).fill(0);
    }

    fn copy(&mut self, from: Span, to: Span) {
        let mut slices = self.arena.borrow_slices();
        slices.write::<u8>(to).copy_from_slice(slices.read(from));
    }
}

impl Offload for Cpu {
    fn attach(&mut self, host: HostMemory) -> Result<(), BackendError> {
        match host {
            HostMemory::File(file) => self.arena.attach(file),
            HostMemory::Bytes(_) => panic!("host memory of a CPU is its arena"),
        }
        Ok(())
    }

    fn prefetch(&mut self, host: Span, to: Span) {
        assert_eq!(host, to, "host memory is used in place");
        self.arena.host().expect("host memory was attached").prefetch(host.offset, host.bytes);
    }

    fn wait(&mut self, host: Span, to: Span) {
        assert_eq!(host, to, "host memory is used in place");
    }

    fn write_back(&mut self, from: Span, host: Span, changed: bool) {
        assert_eq!(host, from, "host memory is used in place");
        self.arena.host().expect("host memory was attached").advise_cold(host.offset, host.bytes, changed);
    }

    fn advise_cold(&self, span: Span) {
        if let (Place::Host, Some(host)) = (span.place, self.arena.host()) {
            host.advise_cold(span.offset, span.bytes, true);
        }
    }
}
