//! The data plane between real network namespaces: what is protected passes, what is not keeps
//! its way, and nothing leaves in clear whatever happens.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on ends")]

#[path = "../common/mod.rs"]
mod common;

mod admitted;
mod blocked;
mod connected;
mod exempt;
mod flushed;
mod fragments;
mod guarded;
mod order;
mod passing;
mod process;
mod raw;
mod steering;
mod takeover;
mod verdicts;

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use common::Namespace;

pub(crate) const CANARY: &[u8] = b"canarycanary";

/// Sends octets over TCP from one namespace to an address in another and checks every one.
pub(crate) fn transfer(from: &Namespace, to: &Namespace, address: &str, octets: usize) {
    let listen: SocketAddr = format!("{address}:9000").parse().unwrap();
    let (ready, wait) = std::sync::mpsc::channel();
    let reader = to.spawn(move || {
        let listener = bound(|| TcpListener::bind(listen));
        ready.send(()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all
    });
    wait.recv().unwrap();
    let data: Vec<u8> = (0..octets).map(|i| (i * 31 + i / 257) as u8).collect();
    let sent = data.clone();
    from.within(move || {
        let mut stream = TcpStream::connect_timeout(&listen, Duration::from_secs(5)).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(&sent).unwrap();
    });
    assert!(reader.join().unwrap() == data, "the octets arrive as they were sent");
}

/// Binds a port that was in use a moment ago: a child that another test has just forked keeps
/// copies of all sockets until it runs its program.
fn bound<T>(bind: impl Fn() -> io::Result<T>) -> T {
    let mut socket = None;
    common::eventually("a port to be free", || {
        socket = bind().ok();
        socket.is_some()
    });
    socket.unwrap()
}

/// One datagram there and back.
pub(crate) fn datagram(from: &Namespace, to: &Namespace, address: &str, len: usize) -> bool {
    datagram_to(from, to, &format!("{address}:9001"), len)
}

/// One datagram to a port of its own and back.
pub(crate) fn datagram_to(from: &Namespace, to: &Namespace, server: &str, len: usize) -> bool {
    let server: SocketAddr = server.parse().unwrap();
    let (ready, wait) = std::sync::mpsc::channel();
    let echo = to.spawn(move || {
        let socket = bound(|| UdpSocket::bind(server));
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        ready.send(()).unwrap();
        let mut buffer = vec![0; 65_536];
        if let Ok((len, peer)) = socket.recv_from(&mut buffer) {
            socket.send_to(&buffer[..len], peer).unwrap();
        }
        // A closed socket learns nothing from ICMP errors.
        socket
    });
    wait.recv().unwrap();
    let came_back = from.within(move || {
        let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
        let data: Vec<u8> = CANARY.iter().copied().cycle().take(len).collect();
        let mut buffer = vec![0; 65_536];
        socket.send_to(&data, server).is_ok()
            && socket.recv_from(&mut buffer).is_ok_and(|(got, _)| buffer[..got] == data)
    });
    drop(echo.join().unwrap());
    came_back
}
