//! Network namespaces for the tests of the data plane.
#![allow(dead_code, reason = "every test file uses a part")]
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on ends"
)]

pub(crate) mod oracle;
pub(crate) mod sites;

use std::{
    fs::File,
    os::fd::{AsFd, OwnedFd},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A network namespace of this test run; deleted on drop.
pub(crate) struct Namespace {
    pub(crate) name: String,
}

/// Runs a command that must succeed.
pub(crate) fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().expect("the program exists");
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

impl Namespace {
    pub(crate) fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("pt-{}-{number}", std::process::id());
        run("ip", &["netns", "add", &name]);
        let space = Self { name };
        space.ip("link set lo up");
        space
    }

    /// `ip ARGUMENTS` inside.
    pub(crate) fn ip(&self, arguments: &str) {
        let mut all = vec!["-n", &self.name];
        all.extend(arguments.split_whitespace());
        run("ip", &all);
    }

    /// A command inside, and whether it succeeded.
    pub(crate) fn exec(&self, command: &str) -> (bool, String) {
        let output = Command::new("ip")
            .args(["netns", "exec", &self.name])
            .args(command.split_whitespace())
            .output()
            .expect("ip exists");
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// Runs a closure on a thread inside; threads it starts stay inside.
    pub(crate) fn within<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.spawn(work).join().expect("the thread inside the namespace ends well")
    }

    /// Starts a thread inside.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let path = format!("/run/netns/{}", self.name);
        std::thread::spawn(move || {
            let space = File::open(path).expect("the namespace exists");
            move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("root may enter namespaces");
            work()
        })
    }

    /// Whether a number of pings all come back.
    pub(crate) fn pings(&self, target: &str) -> bool {
        self.exec(&format!("ping -n -q -c 3 -i 0.05 -W 1 -p 63616e617279 {target}")).0
    }

    /// Whether no ping comes back.
    pub(crate) fn no_ping(&self, target: &str) -> bool {
        let (_, text) =
            self.exec(&format!("ping -n -q -c 3 -i 0.05 -W 1 -p 63616e617279 {target}"));
        !text.contains(" 1 received")
            && !text.contains(" 2 received")
            && !text.contains(" 3 received")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

/// A veth pair between two namespaces.
pub(crate) fn wire(a: &Namespace, a_name: &str, b: &Namespace, b_name: &str) {
    let (one, two) = (a_name.to_owned(), b_name.to_owned());
    run(
        "ip",
        &[
            "link", "add", &one, "netns", &a.name, "type", "veth", "peer", "name", &two, "netns",
            &b.name,
        ],
    );
    for (space, name) in [(a, a_name), (b, b_name)] {
        let path = format!("/proc/sys/net/ipv6/conf/{name}/accept_dad");
        space.within(move || std::fs::write(path, "0").is_ok());
        space.ip(&format!("link set {name} up"));
    }
}

/// Waits until something holds, for at most some seconds.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < until, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Everything that passes the interfaces of a namespace.
pub(crate) struct Capture {
    frames: Arc<Mutex<Vec<Vec<u8>>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    pub(crate) fn start(space: &Namespace) -> Self {
        let frames = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (kept, ended) = (Arc::clone(&frames), Arc::clone(&stop));
        let (ready, wait) = std::sync::mpsc::channel();
        let thread = space.spawn(move || {
            let all = i32::from(u16::from_ne_bytes(3_u16.to_be_bytes()));
            let socket = socket2::Socket::new(
                socket2::Domain::PACKET,
                socket2::Type::RAW,
                Some(socket2::Protocol::from(all)),
            )
            .expect("root may capture");
            socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            let file = File::from(OwnedFd::from(socket));
            ready.send(()).unwrap();
            let mut buffer = vec![0; 1 << 17];
            while !ended.load(Ordering::Acquire) {
                if let Ok(len) = std::io::Read::read(&mut (&file), &mut buffer) {
                    kept.lock().unwrap().push(buffer[..len].to_vec());
                }
            }
        });
        wait.recv().unwrap();
        Self { frames, stop, thread: Some(thread) }
    }

    /// How many frames hold these octets.
    pub(crate) fn count(&self, needle: &[u8]) -> usize {
        let frames = self.frames.lock().unwrap();
        frames.iter().filter(|f| f.windows(needle.len()).any(|part| part == needle)).count()
    }

    /// Every frame so far.
    pub(crate) fn frames(&self) -> Vec<Vec<u8>> {
        self.frames.lock().unwrap().clone()
    }

    /// Whether some frame is as asked.
    pub(crate) fn any(&self, wanted: impl Fn(&[u8]) -> bool) -> bool {
        self.frames.lock().unwrap().iter().any(|frame| wanted(frame))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
