//! Processes in namespaces: a data plane that can be killed, and floods of packets.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use crate::common::Namespace;

/// The example `dataplane_lines` in a namespace.
pub(crate) struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Process {
    pub(crate) fn start(space: &Namespace) -> Self {
        Self::start_with(space, &[])
    }

    /// With variables in its environment.
    pub(crate) fn start_with(space: &Namespace, variables: &[(&str, &str)]) -> Self {
        let test = std::env::current_exe().unwrap();
        // Built with every `cargo test -p fastpath`; `--test tun_netns` alone does not build it.
        let program = test.parent().unwrap().parent().unwrap().join("examples/dataplane_lines");
        let mut child = Command::new("ip")
            .args(["netns", "exec", &space.name])
            .arg(program)
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut process = Self { child, input, output: BufReader::new(output) };
        // Answered once the data plane runs.
        process.tell("counters");
        process
    }

    /// The answer to a line.
    pub(crate) fn ask(&mut self, line: &str) -> String {
        writeln!(self.input, "{line}").unwrap();
        let mut answer = String::new();
        self.output.read_line(&mut answer).unwrap();
        answer.trim().to_owned()
    }

    /// A line that must be done.
    pub(crate) fn tell(&mut self, line: &str) {
        assert_eq!(self.ask(line), "ok", "{line}");
    }

    /// SIGKILL: nothing of ours runs any more. `ip netns exec` has become the program.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// It takes away what it made, and ends.
    pub(crate) fn release(mut self) {
        self.tell("release");
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Pings with canaries, hundreds a second, until it is dropped.
pub(crate) struct Flood(Child);

impl Flood {
    pub(crate) fn start(from: &Namespace, target: &str) -> Self {
        let child = Command::new("ip")
            .args(["netns", "exec", &from.name, "ping", "-n", "-q", "-i", "0.002"])
            .args(["-p", "63616e617279", target])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
