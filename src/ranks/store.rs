//! The store of keys that torchrun's agent holds for the processes it starts: bytes from one of them to the others, before they
//! have anything else in common. Its protocol is PyTorch's own and might change, so it is checked before it is used.

use super::handshake::Keys;
use crate::error::RanksError;
use crate::store::ticks;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Queries, by their first byte.
const VALIDATE: u8 = 0;
const SET: u8 = 1;
const GET: u8 = 3;
const CHECK: u8 = 5;
const WAIT: u8 = 6;
const PING: u8 = 13;
/// What follows the first of them.
const MAGIC: u32 = 0x3c85_f7ce;
/// Answers to [`CHECK`], and of these the first to [`WAIT`].
const THERE: u8 = 0;
const NOT_THERE: u8 = 1;

/// Between two attempts to reach it.
const PAUSE: Duration = Duration::from_millis(100);

/// A connection to the store.
pub struct KeyStore {
    stream: TcpStream,
    address: String,
    limit: Option<Duration>,
}

impl KeyStore {
    /// Reaches the store at `address` (`host:port`). `limit`: how long it, and later a key, is waited for; nothing: without end.
    ///
    /// # Errors
    /// If nothing is there in time, or it is no such store.
    pub fn open(address: &str, limit: Option<Duration>) -> Result<Self, RanksError> {
        let fault = |error| fault(address, limit, error);
        let stream = connect(address, limit).map_err(fault)?;
        let begin = || {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(limit)
        };
        begin().map_err(fault)?;
        let mut store = Self { stream, address: address.to_owned(), limit };
        match store.greet() {
            Ok(true) => Ok(store),
            Ok(false) => Err(store.said("it does not answer as PyTorch's store does")),
            Err(error) => Err(fault(error)),
        }
    }

    /// Whether it answers as such a store does.
    fn greet(&mut self) -> io::Result<bool> {
        let nonce = std::process::id();
        let mut query = vec![VALIDATE];
        query.extend(MAGIC.to_ne_bytes());
        query.push(PING);
        query.extend(nonce.to_ne_bytes());
        self.stream.write_all(&query)?;
        let mut answer = [0; 4];
        self.stream.read_exact(&mut answer)?;
        Ok(answer == nonce.to_ne_bytes())
    }

    /// What is wrong with the answer, if anything.
    fn fetch(&mut self, key: &str, value: &mut [u8]) -> io::Result<Option<String>> {
        let mut query = vec![WAIT];
        query.extend(1u64.to_ne_bytes());
        text(&mut query, key.as_bytes());
        self.stream.write_all(&query)?;
        let mut answer = [0];
        self.stream.read_exact(&mut answer)?;
        if answer != [THERE] {
            return Ok(Some(format!("it answered {} where {THERE} says that {key} is there", answer[0])));
        }
        let mut query = vec![GET];
        text(&mut query, key.as_bytes());
        self.stream.write_all(&query)?;
        let mut len = [0; 8];
        self.stream.read_exact(&mut len)?;
        let len = u64::from_ne_bytes(len);
        if len != value.len() as u64 {
            return Ok(Some(format!("{key} has {len} bytes, {} were expected", value.len())));
        }
        self.stream.read_exact(value)?;
        Ok(None)
    }

    fn said(&self, said: &str) -> RanksError {
        RanksError::Store { launcher: "torchrun", address: self.address.clone(), said: said.to_owned() }
    }
}

impl Keys for KeyStore {
    fn set(&mut self, key: &str, value: &[u8]) -> Result<(), RanksError> {
        let mut query = vec![SET];
        text(&mut query, key.as_bytes());
        text(&mut query, value);
        self.stream.write_all(&query).map_err(|error| fault(&self.address, self.limit, error))
    }

    fn has(&mut self, key: &str) -> Result<bool, RanksError> {
        let mut query = vec![CHECK];
        query.extend(1u64.to_ne_bytes());
        text(&mut query, key.as_bytes());
        let mut answer = [0];
        let asked = self.stream.write_all(&query).and_then(|()| self.stream.read_exact(&mut answer));
        match asked.map(|()| answer[0]) {
            Ok(THERE) => Ok(true),
            Ok(NOT_THERE) => Ok(false),
            Ok(other) => Err(self.said(&format!("it answered {other} to whether {key} is there"))),
            Err(error) => Err(fault(&self.address, self.limit, error)),
        }
    }

    fn get(&mut self, key: &str, value: &mut [u8]) -> Result<(), RanksError> {
        match self.fetch(key, value) {
            Ok(None) => Ok(()),
            Ok(Some(wrong)) => Err(self.said(&wrong)),
            Err(error) => Err(fault(&self.address, self.limit, error)),
        }
    }
}

/// A connection, once somebody listens.
fn connect(address: &str, limit: Option<Duration>) -> io::Result<TcpStream> {
    let begun = ticks();
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => return Ok(stream),
            Err(error) if limit.is_some_and(|limit| ticks().saturating_sub(begun) >= limit) => return Err(error),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

fn fault(address: &str, limit: Option<Duration>, error: io::Error) -> RanksError {
    match (error.kind(), limit) {
        (ErrorKind::WouldBlock | ErrorKind::TimedOut, Some(limit)) => {
            RanksError::Timeout { call: "torchrun's store", seconds: limit.as_secs() }
        }
        _ => RanksError::Store { launcher: "torchrun", address: address.to_owned(), said: error.to_string() },
    }
}

/// A length and as many bytes.
fn text(query: &mut Vec<u8>, bytes: &[u8]) {
    query.extend((bytes.len() as u64).to_ne_bytes());
    query.extend(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// What a client makes of a server that reads its greeting, answers `greeting`, and then gives `answers`, whatever it is asked.
    fn against(
        greeting: impl FnOnce(u32) -> u32 + Send,
        answers: &[u8],
        limit: Option<Duration>,
    ) -> Result<[u8; 2], RanksError> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::scope(|scope| {
            let served = scope.spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut hello = [0; 10];
                stream.read_exact(&mut hello).unwrap();
                assert_eq!((hello[0], hello[5]), (VALIDATE, PING));
                assert_eq!(hello[1..5], MAGIC.to_ne_bytes());
                let nonce = u32::from_ne_bytes(hello[6..].try_into().unwrap());
                stream.write_all(&greeting(nonce).to_ne_bytes()).unwrap();
                stream.write_all(answers).unwrap();
                // Until the client has gone.
                let _ = stream.read_to_end(&mut Vec::new());
            });
            let mut value = [0; 2];
            let found =
                KeyStore::open(&address, limit).and_then(|mut store| store.get("a", &mut value)).map(|()| value);
            served.join().unwrap();
            found
        })
    }

    #[test]
    fn a_value_is_fetched_once_it_is_there() {
        let answers = [&[THERE][..], &2u64.to_ne_bytes(), &[5, 6]].concat();
        assert_eq!(against(|nonce| nonce, &answers, None), Ok([5, 6]));
    }

    #[test]
    fn what_is_no_such_store_or_answers_otherwise_is_refused() {
        let said = |answers: &[u8]| against(|nonce| nonce, answers, None).unwrap_err().to_string();
        let other = against(|nonce| !nonce, &[], None).unwrap_err().to_string();
        assert!(other.starts_with("the store of torchrun at 127.0.0.1:"), "{other}");
        assert!(other.ends_with(": it does not answer as PyTorch's store does"), "{other}");
        assert!(said(&[1]).contains("it answered 1 where 0 says that a is there"));
        let long = [&[THERE][..], &u64::MAX.to_ne_bytes()].concat();
        assert!(said(&long).contains("a has 18446744073709551615 bytes, 2 were expected"));
    }

    #[test]
    fn who_never_gets_an_answer_gives_up() {
        let late = against(|nonce| nonce, &[], Some(Duration::from_secs(1))).unwrap_err();
        assert_eq!(late, RanksError::Timeout { call: "torchrun's store", seconds: 1 });
    }
}
