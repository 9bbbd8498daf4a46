//! One end of a TCP transfer of a scenario.
//!
//! `pt-tcp serve ADDRESS MEBIBYTES CANARY` accepts one connection; `pt-tcp connect LOCAL ADDRESS
//! MEBIBYTES CANARY` makes it. Both send that much, full of the canary, and hold every octet they
//! receive against it; each prints one line when it is done.

#![expect(clippy::print_stdout, reason = "the harness reads this program's standard output")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use conformance::{Failure, Outcome};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            println!("failed: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (stream, size, canary) = match words.as_slice() {
        ["serve", address, size, canary] => {
            let listener = TcpListener::bind(parse::<SocketAddr>(address)?)?;
            println!("ready");
            std::io::stdout().flush()?;
            (listener.accept()?.0, parse::<usize>(size)?, *canary)
        }
        ["connect", address, size, canary] => {
            let limit = Duration::from_secs(20);
            let stream = TcpStream::connect_timeout(&parse(address)?, limit)?;
            (stream, parse::<usize>(size)?, *canary)
        }
        _ => return Err(Failure::new("serve or connect was expected")),
    };
    let limit = Some(Duration::from_secs(30));
    stream.set_read_timeout(limit)?;
    stream.set_write_timeout(limit)?;
    let begun = Instant::now();
    let mut sender = stream.try_clone()?;
    let block: Vec<u8> = canary.bytes().cycle().take(canary.len() * 1024).collect();
    let total = size * 1024 * 1024 / block.len() * block.len();
    let sent = block.clone();
    let sending = thread::spawn(move || -> Outcome {
        for _ in 0..total / sent.len() {
            sender.write_all(&sent)?;
        }
        Ok(())
    });
    let mut received = vec![0; block.len()];
    let mut stream = stream;
    for _ in 0..total / block.len() {
        stream.read_exact(&mut received)?;
        if received != block {
            return Err(Failure::new("octets have changed"));
        }
    }
    sending.join().map_err(|_| Failure::new("the sender panicked"))??;
    println!("done: {total} octets each way in {:.3} s", begun.elapsed().as_secs_f64());
    Ok(())
}

fn parse<T: std::str::FromStr>(text: &str) -> Outcome<T> {
    text.parse().map_err(|_| Failure::new(format!("`{text}` is not what was expected")))
}
