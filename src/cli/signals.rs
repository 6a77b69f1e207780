//! Signals of the system: limits on the size of files become errors, and a request to stop is acknowledged at once.

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};
use signal_hook::iterator::Signals;
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// Signals within this time after the first are one request: `timeout` signals the process and then its group, and a
/// terminal and a supervisor may both pass one on.
const ONE_REQUEST: Duration = Duration::from_secs(1);

/// Makes a write beyond the limit on the size of files (`ulimit -f`) fail with an error: by default it ends the process
/// without a word.
///
/// # Errors
/// If the system refuses.
pub(super) fn survive_file_limits() -> io::Result<()> {
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false))).map(drop)
}

/// What a request to stop waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Doing {
    /// Nothing that would be lost: it ends the process.
    Nothing,
    /// Text is prepared.
    Preparing,
    /// Steps are taken.
    Training,
}

/// Requests to stop: SIGINT, SIGTERM, and SIGUSR1, which schedulers send ahead of time and launchers pass on.
pub(super) struct Interrupts {
    /// Set by the first one.
    pub stop: AtomicBool,
    doing: AtomicU8,
    /// Whether another process speaks for this one.
    quiet: AtomicBool,
}

impl Interrupts {
    /// Watches for them from now on, on a thread of its own.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn watch() -> io::Result<Arc<Self>> {
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGUSR1])?;
        let (stop, quiet) = (AtomicBool::new(false), AtomicBool::new(false));
        let shared = Arc::new(Self { stop, doing: AtomicU8::new(Doing::Nothing as u8), quiet });
        let own = shared.clone();
        std::thread::Builder::new().name("tetrad-signals".into()).spawn(move || {
            let mut first: Option<Instant> = None;
            for signal in signals.forever() {
                match first {
                    Some(at) if at.elapsed() < ONE_REQUEST => {}
                    Some(_) => leave(signal),
                    None => {
                        first = Some(Instant::now());
                        own.acknowledge(signal);
                    }
                }
            }
        })?;
        Ok(shared)
    }

    /// What requests wait for from now on.
    pub fn now(&self, doing: Doing) {
        self.doing.store(doing as u8, Ordering::SeqCst);
    }

    /// Whether another process speaks for this one.
    pub fn set_quiet(&self, quiet: bool) {
        self.quiet.store(quiet, Ordering::SeqCst);
    }

    /// The same.
    pub fn is_quiet(&self) -> bool {
        self.quiet.load(Ordering::SeqCst)
    }

    /// Whether there was one.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn acknowledge(&self, signal: i32) {
        self.stop.store(true, Ordering::SeqCst);
        let doing = self.doing.load(Ordering::SeqCst);
        // A progress line, and the terminal's own ^C, may stand there.
        let line = if io::stderr().is_terminal() { "\n" } else { "" };
        let again = "again after a second: leave at once";
        if doing == Doing::Nothing as u8 {
            eprintln!("{line}stopped; nothing was under way that could be lost");
            leave(signal);
        }
        match doing == Doing::Preparing as u8 {
            _ if self.is_quiet() => {}
            true => eprintln!("{line}stopping: what is prepared of the text is kept ({again})"),
            false => eprintln!("{line}stopping: the current step is finished and saved ({again})"),
        }
    }
}

/// Ctrl-C in a conversation: it ends the reply at hand; between replies, and when it comes again, the process.
#[derive(Default)]
pub(super) struct ReplyInterrupts {
    replying: AtomicBool,
    stop: AtomicBool,
}

impl ReplyInterrupts {
    /// Watches for it from now on, on a thread of its own.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn watch() -> io::Result<Arc<Self>> {
        let mut signals = Signals::new([SIGINT])?;
        let shared = Arc::new(Self::default());
        let own = shared.clone();
        std::thread::Builder::new().name("tetrad-signals".into()).spawn(move || {
            for signal in signals.forever() {
                if !own.ends_a_reply() {
                    eprintln!();
                    leave(signal);
                }
            }
        })?;
        Ok(shared)
    }

    /// A reply begins, or has ended.
    pub fn set_replying(&self, replying: bool) {
        self.stop.store(false, Ordering::SeqCst);
        self.replying.store(replying, Ordering::SeqCst);
    }

    /// Whether the reply is to end.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Takes a signal; whether that ends a reply.
    fn ends_a_reply(&self) -> bool {
        self.replying.load(Ordering::SeqCst) && !self.stop.swap(true, Ordering::SeqCst)
    }
}

fn leave(signal: i32) -> ! {
    signal_hook::low_level::exit(128 + signal)
}

#[cfg(test)]
mod tests {
    use super::ReplyInterrupts;

    #[test]
    fn a_signal_ends_the_reply_at_hand_and_otherwise_the_process() {
        let interrupts = ReplyInterrupts::default();
        assert!(!interrupts.ends_a_reply(), "nothing is replied");
        interrupts.set_replying(true);
        assert!(interrupts.ends_a_reply() && interrupts.stopped());
        assert!(!interrupts.ends_a_reply(), "it came again");
        interrupts.set_replying(false);
        assert!(!interrupts.stopped() && !interrupts.ends_a_reply());
    }
}
