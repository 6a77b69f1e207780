//! The page of runs that are under way, served to browsers of this machine.

use crate::cli::signals::Interrupts;
use crate::cli::{CliResult, Failure};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

/// A request is a line and a few headers; what is longer is none.
const LONGEST_REQUEST: u64 = 1 << 16;

/// How often it is looked whether somebody asks, or the command is to end.
const LOOK: Duration = Duration::from_millis(50);

/// Serves what `page` gives until the command is interrupted.
///
/// # Errors
/// A port that cannot be had.
pub(super) fn serve(port: u16, page: &dyn Fn() -> Result<String, Failure>) -> CliResult {
    let interrupts = Interrupts::watch()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .map_err(|e| format!("port {port} of this machine cannot be served: {e}; name another with --live PORT"))?;
    listener.set_nonblocking(true)?;
    let at = listener.local_addr()?;
    crate::cli::output::print(|out| writeln!(out, "http://{at}/ shows the runs as they go; Ctrl-C ends it"))?;
    while !interrupts.stopped() {
        match listener.accept() {
            // A browser that goes away is no reason to end.
            Ok((stream, _)) => drop(answer(stream, page)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(LOOK),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Answers one request; whatever else a page asks for is not there.
fn answer(mut stream: TcpStream, page: &dyn Fn() -> Result<String, Failure>) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    let mut asked = String::new();
    let mut reader = BufReader::new((&stream).take(LONGEST_REQUEST));
    reader.read_line(&mut asked)?;
    let (mut header, mut host) = (String::new(), None);
    while reader.read_line(&mut header)? > 0 && !header.trim().is_empty() {
        if let Some((_, value)) = header.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("host")) {
            host = Some(value.trim().to_owned());
        }
        header.clear();
    }
    let (status, body) = match asked.split(' ').nth(1) {
        _ if host.is_some_and(|host| !is_this_machine(&host)) => {
            ("403 Forbidden", "this page is for browsers of this machine, under localhost or 127.0.0.1\n".into())
        }
        Some("/") => match page() {
            Ok(page) => ("200 OK", page),
            Err(error) => ("503 Service Unavailable", format!("{error}\n")),
        },
        _ => ("404 Not Found", "there is one page here: /\n".into()),
    };
    let kind = if status.starts_with("200") { "text/html" } else { "text/plain" };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}; charset=utf-8\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}

/// Whether a request names this machine: a page of another name that was led here (DNS rebinding) must not read runs.
fn is_this_machine(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    ["localhost", "127.0.0.1"].contains(&name)
}

#[cfg(test)]
mod tests {
    use super::is_this_machine;

    #[test]
    fn a_name_that_was_led_here_is_not_this_machine() {
        assert!(["localhost:6007", "localhost", "127.0.0.1:80"].map(is_this_machine).iter().all(|&own| own));
        assert!(!["evil.example:6007", "127.0.0.1.evil.example", ""].map(is_this_machine).iter().any(|&own| own));
    }
}
