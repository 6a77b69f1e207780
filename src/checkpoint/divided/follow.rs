//! What other ranks than 0 do while it saves.

use super::super::planes::{ParamPlane, plan};
use super::{END, Job, PIECE, READ, Request, SEE, WRITE, whole_blocks};
use crate::backend::Backend;
use crate::error::{BackendError, RanksError};
use crate::store::Output;
use crate::train::Trainer;
use std::ffi::OsString;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use xxhash_rust::xxh3::Xxh3;
use zerocopy::IntoBytes;

/// What every other rank does while rank 0 saves all of a state ([`RunFolder::save`](crate::checkpoint::RunFolder::save)): writes its
/// part of the file, if it finds that in its own `run.dir`; else gives what it alone holds.
///
/// # Errors
/// If rank 0 is lost, or the device here failed. That a part could not be written is rank 0's to say.
pub fn contribute(trainer: &Trainer) -> Result<(), BackendError> {
    let model = trainer.model();
    let planes: Vec<Vec<ParamPlane>> =
        model.specs.iter().zip(&model.stored).map(|(entry, param)| plan(entry, param, true).1).collect();
    let mut follower = Follower { trainer, planes, file: None, piece: vec![0; PIECE] };
    loop {
        let mut request = [END; 5];
        trainer.ranks().recv(request.as_mut_bytes(), 0)?;
        match request[0] {
            END => return Ok(()),
            READ => follower.read(request)?,
            SEE => follower.see(request)?,
            WRITE => follower.write(request)?,
            other => unreachable!("rank 0 asks nothing of number {other}"),
        }
    }
}

struct Follower<'a> {
    trainer: &'a Trainer,
    /// Of all parameters.
    planes: Vec<Vec<ParamPlane>>,
    /// The file that rank 0 has begun, if it is found here.
    file: Option<Output>,
    piece: Vec<u8>,
}

impl Follower<'_> {
    fn backend(&self) -> &dyn Backend {
        self.trainer.backend()
    }

    fn read(&mut self, [_, param, plane, from, bytes]: Request) -> Result<(), BackendError> {
        let [param, plane, from, bytes] = [param, plane, from, bytes].map(|number| number as usize);
        let span = self.planes[param][plane].span;
        let backend = self.trainer.backend();
        backend.download(span.part(from, bytes), &mut self.piece[..bytes]);
        backend.status()?;
        self.trainer.ranks().send(&self.piece[..bytes], 0)?;
        if from + bytes == span.bytes {
            backend.advise_cold(span);
        }
        Ok(())
    }

    /// Looks for the file, which may be another one of the same name.
    fn see(&mut self, [_, low, high, len, _]: Request) -> Result<(), RanksError> {
        let mut name = vec![0; len as usize];
        self.trainer.ranks().recv(&mut name, 0)?;
        let path = self.trainer.config().run.dir.join(OsString::from_vec(name));
        self.file = marked(&path, [low, high]).ok();
        self.trainer.ranks().send(u64::from(self.file.is_some()).as_bytes(), 0)
    }

    /// Writes this rank's part, and answers with the checksums of its planes.
    fn write(&mut self, [_, count, ..]: Request) -> Result<(), BackendError> {
        let mut jobs: Vec<Job> = vec![[0; 3]; count as usize];
        if !jobs.is_empty() {
            self.trainer.ranks().recv(jobs.as_mut_bytes(), 0)?;
        }
        let mut answer = vec![0u64; 1 + jobs.len()];
        if let Err(error) = self.write_all(&jobs, &mut answer[1..]) {
            answer[0] = error.raw_os_error().and_then(|code| u64::try_from(code).ok()).unwrap_or(u64::MAX);
        }
        Ok(self.trainer.ranks().send(answer.as_bytes(), 0)?)
    }

    fn write_all(&mut self, jobs: &[Job], checksums: &mut [u64]) -> io::Result<()> {
        let mut file = self.file.take().ok_or(io::ErrorKind::NotFound)?;
        for (&job, checksum) in jobs.iter().zip(checksums) {
            *checksum = self.write_plane(job, &mut file)?;
        }
        file.sync()
    }

    /// Writes the whole blocks of a plane; the checksum of all its bytes.
    fn write_plane(&mut self, [param, plane, offset]: Job, file: &mut Output) -> io::Result<u64> {
        let span = self.planes[param as usize][plane as usize].span;
        let whole = whole_blocks(offset, span.bytes as u64);
        let whole = whole.start as usize..whole.end as usize;
        let mut hash = Xxh3::new();
        file.seek(SeekFrom::Start(offset + whole.start as u64))?;
        for from in (0..span.bytes).step_by(PIECE) {
            let bytes = PIECE.min(span.bytes - from);
            let piece = &mut self.piece[..bytes];
            self.trainer.backend().download(span.part(from, bytes), piece);
            hash.update(piece);
            let (first, end) = (whole.start.max(from), whole.end.min(from + bytes));
            if first < end {
                file.write_all(&piece[first - from..end - from])?;
            }
        }
        // A device that failed gives zeros.
        self.backend().status().map_err(io::Error::other)?;
        self.backend().advise_cold(span);
        Ok(hash.digest())
    }
}

/// A file with a mark at its beginning.
fn marked(path: &Path, mark: [u64; 2]) -> io::Result<Output> {
    let file = Output::open_part(path)?;
    let mut found = [0u64; 2];
    file.read_first(found.as_mut_bytes())?;
    if found == mark { Ok(file) } else { Err(io::ErrorKind::NotFound.into()) }
}
