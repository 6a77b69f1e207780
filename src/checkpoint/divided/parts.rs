//! Rank 0's side of a file that all ranks write: who writes what, what is left for itself, and the head at the end.

use super::{BLOCK, Job, PIECE, Request, SEE, Source, WRITE, whole_blocks};
use crate::error::{RanksError, WriteError};
use crate::format::{Layout, Plane, PlaneSource};
use crate::store::{Sink, ticks, time};
use std::io::{self, Seek, SeekFrom, Write};
use xxhash_rust::xxh3::xxh3_128;
use zerocopy::IntoBytes;

/// Writes the file as far as this rank has it to do, and has the others write the rest; `false` if they do not see it, and
/// nothing was written that matters. `send` gives planes that are read here.
///
/// # Errors
/// A part that cannot be written, a lost rank ([`RanksError`] in [`WriteError::Io`]), and those of `send`.
pub(in super::super) fn write_in_parts(
    layout: &Layout,
    source: &Source<'_>,
    send: &mut dyn PlaneSource,
    out: &mut Sink,
) -> Result<bool, WriteError> {
    let dealt = deal(layout, source);
    if dealt[1..].iter().all(Vec::is_empty) || !is_seen(source, out)? {
        return Ok(false);
    }
    let planes = &layout.head().planes;
    for (rank, dealt) in dealt.iter().enumerate().skip(1) {
        order(source, planes, dealt, rank).map_err(io::Error::other)?;
    }
    let mut checksums = vec![0; planes.len()];
    // A rank that writes does not answer: what others hold is read after they are done.
    let (asked, here): (Vec<_>, Vec<_>) =
        dealt[0].iter().partition(|i| source.is_away(planes[**i].tensor, planes[**i].kind));
    let mut write = |own: Vec<usize>, checksums: &mut [u64], out: &mut Sink| -> Result<(), WriteError> {
        own.into_iter().try_for_each(|i| {
            out.seek(SeekFrom::Start(planes[i].offset))?;
            checksums[i] = layout.write_plane(&planes[i], send, out)?;
            Ok(())
        })
    };
    write(here, &mut checksums, out)?;
    for (rank, dealt) in dealt.iter().enumerate().skip(1) {
        for (&i, checksum) in dealt.iter().zip(written(source, dealt.len(), rank).map_err(io::Error::other)?) {
            checksums[i] = checksum;
        }
    }
    write(asked, &mut checksums, out)?;
    for &i in dealt[1..].iter().flatten() {
        write_shared_blocks(source, &planes[i], out)?;
    }
    out.seek(SeekFrom::Start(0))?;
    out.write_all(&layout.encode(&checksums))?;
    // What is not written is what was reserved: zeros, as padding is.
    out.seek(SeekFrom::Start(layout.file_len()))?;
    Ok(true)
}

/// The planes that each rank writes: those of its parameters, if they have a whole block; all others are rank 0's.
fn deal(layout: &Layout, source: &Source<'_>) -> Vec<Vec<usize>> {
    let mut dealt = vec![Vec::new(); source.ranks.size()];
    for (i, plane) in layout.head().planes.iter().enumerate() {
        let shared = whole_blocks(plane.offset, plane.len).is_empty();
        dealt[if shared { 0 } else { source.held[plane.tensor].0.owner }].push(i);
    }
    dealt
}

/// Whether all other ranks find the file that is begun here, by a mark at its beginning.
fn is_seen(source: &Source<'_>, out: &mut Sink) -> io::Result<bool> {
    let name = out.get_ref().path().file_name().unwrap_or_default().to_owned();
    let name = name.as_encoded_bytes();
    let unlike = [&time().as_nanos().to_le_bytes()[..], &ticks().as_nanos().to_le_bytes(), name].concat();
    let mark = xxh3_128(&unlike);
    out.write_all(&mark.to_le_bytes())?;
    out.flush()?;
    // Other machines see what is on the disk.
    out.get_ref().sync()?;
    let ask = || {
        let mut seen = true;
        for rank in 1..source.ranks.size() {
            let request: Request = [SEE, mark as u64, (mark >> 64) as u64, name.len() as u64, 0];
            source.ranks.send(request.as_bytes(), rank)?;
            source.ranks.send(name, rank)?;
        }
        for rank in 1..source.ranks.size() {
            let mut answer = 0u64;
            source.ranks.recv(answer.as_mut_bytes(), rank)?;
            seen &= answer == 1;
        }
        Ok(seen)
    };
    let seen = ask().map_err(|error: RanksError| io::Error::other(error))?;
    out.seek(SeekFrom::Start(0))?;
    Ok(seen)
}

/// Tells a rank what to write.
fn order(source: &Source<'_>, planes: &[Plane], dealt: &[usize], rank: usize) -> Result<(), RanksError> {
    let job = |&i: &usize| -> Job {
        let Plane { tensor, kind, offset, .. } = planes[i];
        [source.held[tensor].0.id.into(), source.number(tensor, kind) as u64, offset]
    };
    let jobs: Vec<Job> = dealt.iter().map(job).collect();
    let request: Request = [WRITE, jobs.len() as u64, 0, 0, 0];
    source.ranks.send(request.as_bytes(), rank)?;
    if jobs.is_empty() { Ok(()) } else { source.ranks.send(jobs.as_bytes(), rank) }
}

/// The checksums of the planes that a rank has written.
fn written(source: &Source<'_>, planes: usize, rank: usize) -> Result<Vec<u64>, RanksError> {
    let mut answer = vec![0u64; 1 + planes];
    source.ranks.recv(answer.as_mut_bytes(), rank)?;
    let status = answer.remove(0);
    if status == 0 { Ok(answer) } else { Err(RanksError::Part { rank, said: said(status) }) }
}

/// What a status other than 0 says.
fn said(status: u64) -> String {
    match i32::try_from(status) {
        Ok(code) => io::Error::from_raw_os_error(code).to_string(),
        Err(_) => "its device or its disk failed".into(),
    }
}

/// What lies in blocks with something else, of a plane whose whole blocks another rank has written.
fn write_shared_blocks(source: &Source<'_>, plane: &Plane, out: &mut Sink) -> io::Result<()> {
    const _: () = assert!(BLOCK as usize <= PIECE);
    let whole = whole_blocks(plane.offset, plane.len);
    let mut edge = Vec::new();
    for part in [0..whole.start, whole.end..plane.len] {
        edge.resize((part.end - part.start) as usize, 0);
        if edge.is_empty() {
            continue;
        }
        source.read(plane.tensor, plane.kind, part.start as usize, &mut edge).map_err(io::Error::other)?;
        out.seek(SeekFrom::Start(plane.offset + part.start))?;
        out.write_all(&edge)?;
    }
    Ok(())
}
