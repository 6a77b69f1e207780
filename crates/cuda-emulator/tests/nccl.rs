//! What the emulated NCCL carries between ranks on threads, and what it refuses where the real one refuses or hangs.

mod support;

use libloading::Library;
use std::ffi::{c_int, c_uint, c_void};
use std::ptr::null_mut;
use std::sync::OnceLock;
use support::emulator;

type Code = c_uint;
type Handle = *mut c_void;

const SUCCESS: Code = 0;
const INVALID_ARGUMENT: Code = 4;
const INVALID_USAGE: Code = 5;
const REMOTE_ERROR: Code = 6;
const IN_PROGRESS: Code = 7;
/// Of the driver.
const LAUNCH_FAILED: Code = 719;
/// `ncclUint8`, `ncclFloat32`
const BYTE: c_uint = 1;
const FLOAT: c_uint = 7;

#[derive(Clone, Copy)]
#[repr(C)]
struct Id([u8; 128]);

#[repr(C)]
struct Config {
    bytes: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
}

macro_rules! call {
    ($library:literal, $name:ident($($value:expr => $type:ty),* $(,)?)) => {{
        // SAFETY: the type is the function's in NVIDIA's headers; each test passes what the function asks for.
        unsafe {
            let function = library($library).get::<unsafe extern "C" fn($($type),*) -> Code>(stringify!($name));
            function.expect("the emulated library has it")($($value),*)
        }
    }};
}

macro_rules! cuda {
    ($($call:tt)*) => { call!("libcuda.so.1", $($call)*) };
}

macro_rules! nccl {
    ($($call:tt)*) => { call!("libnccl.so.2", $($call)*) };
}

fn library(name: &str) -> &'static Library {
    static ALL: OnceLock<Vec<(&str, Library)>> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        emulator().set_devices(4);
        let open = |name| {
            // SAFETY: the libraries are the emulator's own.
            (name, unsafe { Library::new(emulator().libraries().join(name)) }.expect("it was just built"))
        };
        ["libcuda.so.1", "libnccl.so.2"].map(open).into()
    });
    &all.iter().find(|(known, _)| *known == name).expect("one of the two").1
}

fn id() -> Id {
    let mut id = Id([0; 128]);
    assert_eq!(nccl!(ncclGetUniqueId(&mut id => *mut Id)), SUCCESS);
    id
}

/// A rank with its device's context on this thread.
struct Rank {
    rank: usize,
    comm: Handle,
    context: Handle,
    stream: Handle,
}

impl Rank {
    fn begin(device: usize) -> (Handle, Handle) {
        let (mut context, mut stream): (Handle, Handle) = (null_mut(), null_mut());
        assert_eq!(cuda!(cuInit(0 => c_uint)), SUCCESS);
        assert_eq!(cuda!(cuDevicePrimaryCtxRetain(&mut context => *mut Handle, device as c_int => c_int)), SUCCESS);
        assert_eq!(cuda!(cuCtxSetCurrent(context => Handle)), SUCCESS);
        assert_eq!(cuda!(cuStreamCreate(&mut stream => *mut Handle, 1 => c_uint)), SUCCESS);
        (context, stream)
    }

    fn join(device: usize, rank: usize, size: usize, id: Id, blocking: c_int) -> Result<Self, Code> {
        let ((context, stream), mut comm) = (Self::begin(device), null_mut());
        let mut config = Config { bytes: size_of::<Config>(), magic: 0xcafe_beef, version: 21_400, blocking };
        let code = nccl!(ncclCommInitRankConfig(
            &mut comm => *mut Handle, size as c_int => c_int, id => Id, rank as c_int => c_int, &mut config => *mut Config
        ));
        let made = Self { rank, comm, context, stream };
        match code {
            SUCCESS => Ok(made),
            IN_PROGRESS => match made.settled() {
                SUCCESS => Ok(made),
                code => Err(code),
            },
            code => Err(code),
        }
    }

    /// How the communicator is once it knows.
    fn settled(&self) -> Code {
        loop {
            match self.state() {
                IN_PROGRESS => std::thread::yield_now(),
                code => return code,
            }
        }
    }

    fn state(&self) -> Code {
        let mut state = SUCCESS;
        assert_eq!(nccl!(ncclCommGetAsyncError(self.comm => Handle, &mut state => *mut Code)), SUCCESS);
        state
    }

    fn memory(&self, bytes: &[u8]) -> u64 {
        let mut address = 0;
        assert_eq!(cuda!(cuMemAlloc_v2(&mut address => *mut u64, bytes.len() => usize)), SUCCESS);
        assert_eq!(cuda!(cuMemcpyHtoD_v2(address => u64, bytes.as_ptr() => *const u8, bytes.len() => usize)), SUCCESS);
        address
    }

    fn read(&self, from: u64, bytes: usize) -> Vec<u8> {
        assert_eq!(self.synchronize(), SUCCESS);
        let mut read = vec![0; bytes];
        assert_eq!(cuda!(cuMemcpyDtoH_v2(read.as_mut_ptr() => *mut u8, from => u64, bytes => usize)), SUCCESS);
        read
    }

    fn send(&self, from: u64, count: usize, kind: c_uint, to: usize) -> Code {
        nccl!(ncclSend(
            from => u64, count => usize, kind => c_uint, to as c_int => c_int, self.comm => Handle, self.stream => Handle
        ))
    }

    fn recv(&self, to: u64, count: usize, kind: c_uint, from: usize) -> Code {
        nccl!(ncclRecv(
            to => u64, count => usize, kind => c_uint, from as c_int => c_int, self.comm => Handle, self.stream => Handle
        ))
    }

    fn broadcast(&self, at: u64, count: usize, root: usize) -> Code {
        nccl!(ncclBroadcast(
            at => u64, at => u64, count => usize, BYTE => c_uint, root as c_int => c_int, self.comm => Handle,
            self.stream => Handle
        ))
    }

    fn gather(&self, own: u64, all: u64, count: usize) -> Code {
        nccl!(ncclAllGather(
            own => u64, all => u64, count => usize, BYTE => c_uint, self.comm => Handle, self.stream => Handle
        ))
    }

    fn synchronize(&self) -> Code {
        cuda!(cuStreamSynchronize(self.stream => Handle))
    }

    /// The error that the stream's calls end in. Who learns of it through another rank stands still, as a kernel does, until
    /// the communicator is aborted.
    fn error(&self) -> Code {
        let (context, stream) = (self.context as usize, self.stream as usize);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(move || {
                assert_eq!(cuda!(cuCtxSetCurrent(context as Handle => Handle)), SUCCESS);
                cuda!(cuStreamSynchronize(stream as Handle => Handle))
            });
            while self.state() == SUCCESS {
                std::thread::yield_now();
            }
            let state = self.state();
            assert!(
                state == INVALID_USAGE || !waiting.is_finished(),
                "a kernel whose peer is gone does not end by itself"
            );
            assert_eq!(self.abort(), SUCCESS);
            assert_eq!(waiting.join().unwrap(), if state == INVALID_USAGE { LAUNCH_FAILED } else { SUCCESS });
            state
        })
    }

    fn abort(&self) -> Code {
        nccl!(ncclCommAbort(self.comm => Handle))
    }
}

/// What `work` gives on each of `size` ranks that meet, rank r on device r.
fn on_each<T: Send>(size: usize, work: impl Fn(&Rank) -> T + Sync) -> Vec<T> {
    let id = id();
    std::thread::scope(|scope| {
        let work = &work;
        let start = |rank| scope.spawn(move || work(&Rank::join(rank, rank, size, id, 1).unwrap()));
        let threads: Vec<_> = (0..size).map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn group(calls: impl FnOnce()) -> Code {
    assert_eq!(nccl!(ncclGroupStart()), SUCCESS);
    calls();
    nccl!(ncclGroupEnd())
}

#[test]
fn bytes_reach_whom_they_are_for_when_the_stream_comes_to_them() {
    let found = on_each(3, |rank| {
        let own = rank.memory(&[rank.rank as u8 + 1; 4]);
        let all = rank.memory(&[9; 12]);
        let (next, before) = ((rank.rank + 1) % 3, (rank.rank + 2) % 3);
        assert_eq!(rank.gather(own, all, 4), SUCCESS);
        let gathered = rank.read(all, 12);
        // Around the circle: in a group nobody waits to be received before it receives.
        let code = group(|| {
            assert_eq!(rank.send(own, 4, BYTE, next), SUCCESS);
            assert_eq!(rank.recv(all, 1, FLOAT, before), SUCCESS);
        });
        // Four bytes are not a float.
        assert_eq!(code, SUCCESS);
        assert!([INVALID_USAGE, REMOTE_ERROR].contains(&rank.error()));
        gathered
    });
    assert_eq!(found, vec![vec![1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]; 3]);
    let found = on_each(2, |rank| {
        let at = rank.memory(&[7 + rank.rank as u8; 300_000]);
        match rank.rank {
            0 => assert_eq!(rank.send(at, 300_000, BYTE, 1), SUCCESS),
            _ => assert_eq!(rank.recv(at, 300_000, BYTE, 0), SUCCESS),
        }
        assert_eq!(rank.broadcast(at, 5, 1), SUCCESS);
        rank.read(at, 300_000)
    });
    assert!(found.iter().all(|bytes| bytes.iter().all(|byte| *byte == 7)));
}

#[test]
fn calls_that_do_not_match_fail_where_they_would_hang() {
    type Calls = fn(&Rank, u64) -> Code;
    let ends: [(&str, Calls); 5] = [
        ("both send", |rank, at| rank.send(at, 4, BYTE, 1 - rank.rank)),
        ("both receive", |rank, at| rank.recv(at, 4, BYTE, 1 - rank.rank)),
        ("another length", |rank, at| match rank.rank {
            0 => rank.send(at, 4, BYTE, 1),
            _ => rank.recv(at, 5, BYTE, 0),
        }),
        ("another root", |rank, at| rank.broadcast(at, 4, rank.rank)),
        ("one and all", |rank, at| match rank.rank {
            0 => rank.broadcast(at, 4, 0),
            _ => rank.recv(at, 4, BYTE, 0),
        }),
    ];
    for (what, calls) in ends {
        let found = on_each(2, |rank| {
            let at = rank.memory(&[0; 16]);
            assert_eq!(calls(rank, at), SUCCESS, "{what}: it is queued");
            rank.error()
        });
        assert!(found.contains(&INVALID_USAGE), "{what}: {found:?}");
        assert!(found.iter().all(|error| [INVALID_USAGE, REMOTE_ERROR].contains(error)), "{what}: {found:?}");
    }
}

#[test]
fn a_circle_of_three_is_found_and_a_line_is_none() {
    let found = on_each(3, |rank| {
        let at = rank.memory(&[0; 4]);
        assert_eq!(rank.send(at, 4, BYTE, (rank.rank + 1) % 3), SUCCESS);
        rank.error()
    });
    assert!(found.contains(&INVALID_USAGE), "{found:?}");
    // Each waits for the one behind it, which waits for the next, whose turn comes.
    for _ in 0..20 {
        on_each(3, |rank| {
            let at = rank.memory(&[0; 4]);
            if rank.rank > 0 {
                assert_eq!(rank.recv(at, 4, BYTE, rank.rank - 1), SUCCESS);
            }
            if rank.rank < 2 {
                assert_eq!(rank.send(at, 4, BYTE, rank.rank + 1), SUCCESS);
            }
            assert_eq!(rank.broadcast(at, 4, 2), SUCCESS);
            assert_eq!(rank.synchronize(), SUCCESS);
        });
    }
}

#[test]
fn what_a_peer_that_is_gone_leaves_is_an_error_and_the_stream_stands_still_until_aborted() {
    let found = on_each(2, |rank| {
        if rank.rank == 0 {
            return rank.abort();
        }
        let at = rank.memory(&[3; 4]);
        assert_eq!(rank.recv(at, 4, BYTE, 0), SUCCESS);
        assert_eq!(rank.error(), REMOTE_ERROR);
        assert_eq!(rank.read(at, 4), [0xff; 4], "what never came is undefined");
        SUCCESS
    });
    assert_eq!(found, [SUCCESS; 2]);
}

#[test]
fn ranks_that_do_not_belong_together_are_refused() {
    let together = |places: [(usize, usize, usize); 2]| {
        let id = id();
        std::thread::scope(|scope| {
            let start = |(device, rank, size)| scope.spawn(move || Rank::join(device, rank, size, id, 1).map(|_| ()));
            places.map(start).map(|thread| thread.join().unwrap())
        })
    };
    let refused = |found: &[Result<(), Code>]| found.contains(&Err(INVALID_USAGE));
    assert!(refused(&together([(1, 0, 2), (1, 1, 2)])), "one device for two ranks");
    assert!(refused(&together([(0, 0, 2), (1, 1, 3)])), "sizes that differ");
    assert_eq!(Rank::join(0, 2, 2, id(), 1).map(|_| ()), Err(INVALID_ARGUMENT));
}

#[test]
fn who_does_not_block_asks_before_the_next_call() {
    let id = id();
    std::thread::scope(|scope| {
        let start = |rank: usize| {
            scope.spawn(move || {
                let rank = Rank::join(rank, rank, 2, id, 0).unwrap();
                let at = rank.memory(&[rank.rank as u8; 4]);
                assert_eq!(rank.broadcast(at, 4, 1), IN_PROGRESS);
                assert_eq!(rank.broadcast(at, 4, 1), INVALID_USAGE, "nobody asked");
                assert_eq!(rank.settled(), SUCCESS);
                assert_eq!(rank.read(at, 4), [1; 4]);
                assert_eq!(rank.send(at, 4, BYTE, rank.rank), INVALID_USAGE, "to itself");
                assert_eq!(rank.send(at, 5, BYTE, 1 - rank.rank), INVALID_ARGUMENT, "beyond the allocation");
                assert_eq!(rank.send(at, 4, 99, 1 - rank.rank), INVALID_ARGUMENT, "no such type");
                assert_eq!(rank.send(at, 4, BYTE, 2), INVALID_ARGUMENT, "no such rank");
                assert_eq!(nccl!(ncclCommFinalize(rank.comm => Handle)), IN_PROGRESS);
                assert_eq!(rank.settled(), SUCCESS);
                assert_eq!(nccl!(ncclCommDestroy(rank.comm => Handle)), SUCCESS);
                assert_eq!(rank.broadcast(at, 4, 0), INVALID_ARGUMENT, "it does not exist any more");
            })
        };
        for thread in [0, 1].map(start) {
            thread.join().unwrap();
        }
    });
}
