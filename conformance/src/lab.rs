//! One scenario's run: the turn it takes, the network, the gateways, the captures, and what is
//! said and taken away when it is over, whether it passed, failed or panicked.

use std::cell::RefCell;
use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::capture::{Capture, Captured};
use crate::clear;
use crate::failure::{Failure, Outcome, ensure};
use crate::guest::Guest;
use crate::netns::{require_root, sweep};
use crate::postern::{self, Postern};
use crate::spec::Tunnel;
use crate::strongswan::{self, Strongswan};
use crate::topology::{Family, Network, Side, Wire};
use crate::traffic::{Canary, Flow, Report, Shape};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Something that can explain itself when the scenario fails.
pub trait Gateway {
    /// What and where it is.
    fn title(&self) -> String;
    /// Its own view of its SAs and the end of its log.
    fn diagnosis(&self) -> String;
    /// Ends it at once.
    fn end(&self);
}

/// Whether a scenario bears company.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Other scenarios may run at the same time.
    Shared,
    /// It counts packets or time closely and runs alone.
    Alone,
}

/// Whether the canary may be seen outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Canaries {
    Forbidden,
    Allowed,
}

/// A side that Postern stands on, and what its network behind it sees.
struct Ours {
    side: Side,
    inside: Capture,
}

/// One scenario at work.
pub struct Lab {
    /// The namespaces.
    pub net: Network,
    /// What the payload of this scenario carries.
    pub canary: Canary,
    folder: PathBuf,
    /// Of the outer interfaces: left, right.
    captures: RefCell<Vec<Capture>>,
    ours: RefCell<Vec<Ours>>,
    gateways: RefCell<Vec<Rc<dyn Gateway>>>,
    canaries: RefCell<Canaries>,
}

impl Lab {
    /// Runs a scenario. After the body, all captures are searched for the canary: nothing of it may
    /// have left by Postern in clear or have been taken in so, whatever the peer sent; without
    /// any Postern, nobody may have sent it in clear. On any failure
    /// everything that helps to understand it is printed, and the files are kept under
    /// `target/conformance/`.
    pub fn run(turn: Turn, wire: Wire, body: impl FnOnce(&Self) -> Outcome) -> Outcome {
        require_root()?;
        let name = scenario_name();
        let _turn = take_turn(turn)?;
        sweep()?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("pt-{}-ic{number}", std::process::id()));
        let net = Network::new(wire)?;
        fs::DirBuilder::new().mode(0o755).create(&folder)?;
        let captures = net.capture(&folder).inspect_err(|_| {
            // Best effort, as below.
            let _ = fs::remove_dir_all(&folder);
        })?;
        let lab = Self {
            net,
            canary: Canary::new(number),
            folder: folder.clone(),
            captures: RefCell::new(captures),
            ours: RefCell::default(),
            gateways: RefCell::default(),
            canaries: RefCell::new(Canaries::Forbidden),
        };
        let ended = catch_unwind(AssertUnwindSafe(|| {
            body(&lab)?;
            lab.search_captures()
        }));
        let failed = match &ended {
            Ok(Ok(())) => None,
            Ok(Err(failure)) => Some(failure.to_string()),
            Err(_) => Some("panicked".to_owned()),
        };
        if let Some(why) = failed {
            lab.explain(&name, &why);
        }
        drop(lab);
        // Best effort: the folder is under the temporary directory.
        let _ = fs::remove_dir_all(&folder);
        ended.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// The folder of one gateway's files.
    pub fn folder(&self, side: Side) -> Outcome<PathBuf> {
        let folder = self.folder.join(side.name());
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// The capture file of one gateway's outer interface, which is still being written.
    pub fn capture_file(&self, side: Side) -> PathBuf {
        self.folder.join(format!("{}.pcap", side.name()))
    }

    /// Starts strongSwan on one side.
    pub fn strongswan(
        &self,
        side: Side,
        tunnels: &[Tunnel],
        options: &strongswan::Options,
    ) -> Outcome<Rc<Strongswan>> {
        let folder = self.folder(side)?;
        let started = Strongswan::start(self.net.gateway(side), &folder, tunnels, options);
        let gateway = Rc::new(started?);
        self.gateways.borrow_mut().push(Rc::<Strongswan>::clone(&gateway));
        Ok(gateway)
    }

    /// Starts Postern on one side.
    pub fn postern(
        &self,
        side: Side,
        tunnels: &[Tunnel],
        options: &postern::Options,
    ) -> Outcome<Rc<Postern>> {
        let folder = self.folder(side)?;
        self.claim(side)?;
        let started = Postern::start(self.net.gateway(side), &folder, tunnels, options);
        let gateway = Rc::new(started?);
        self.gateways.borrow_mut().push(Rc::<Postern>::clone(&gateway));
        Ok(gateway)
    }

    /// Starts a guest with strongSwan on its kernel's ESP in the place of one gateway.
    pub fn guest(
        &self,
        side: Side,
        tunnels: &[Tunnel],
        options: &strongswan::Options,
    ) -> Outcome<Rc<Guest>> {
        let gateway = Rc::new(Guest::instead_of(&self.net, side)?);
        self.admit(side, &gateway);
        self.gateways.borrow_mut().push(Rc::<Guest>::clone(&gateway));
        gateway.charon(tunnels, options)?;
        Ok(gateway)
    }

    /// Boots a guest with systemd and what `make install` has written to `tree`, instead of the
    /// gateway of one side.
    pub fn service(&self, side: Side, tree: &Path) -> Outcome<Rc<Guest>> {
        self.claim(side)?;
        let gateway = Rc::new(Guest::with_service(&self.net, side, tree)?);
        self.admit(side, &gateway);
        self.gateways.borrow_mut().push(Rc::<Guest>::clone(&gateway));
        Ok(gateway)
    }

    /// Postern stands on this side from now on: what leaves and enters there is judged.
    fn claim(&self, side: Side) -> Outcome {
        if self.ours.borrow().iter().any(|ours| ours.side == side) {
            return Ok(());
        }
        let file = self.folder.join(format!("{}-in.pcap", side.name()));
        let inside = Capture::start(self.net.gateway(side), "in", &file)?;
        self.ours.borrow_mut().push(Ours { side, inside });
        Ok(())
    }

    /// What a guest sends on a side is sent by the gateway of that side.
    fn admit(&self, side: Side, guest: &Guest) {
        if let Some(outside) = self.captures.borrow_mut().get_mut(side.index()) {
            outside.add_own(guest.mac(0));
        }
        for ours in self.ours.borrow_mut().iter_mut().filter(|ours| ours.side == side) {
            ours.inside.add_own(guest.mac(1));
        }
    }

    /// Prepares traffic between the two clients.
    pub fn flow(&self, family: Family, shape: &Shape) -> Outcome<Flow> {
        let end = |side| (self.net.client(side), self.net.client_address(side, family));
        Flow::prepare(end(Side::Left), end(Side::Right), &self.canary, shape)
    }

    /// Sends `count` packets of all sizes up to `largest` each way between the clients.
    pub fn exchange(&self, family: Family, count: u64, largest: usize) -> Outcome<Report> {
        let shape = Shape { rate: 1000, smallest: 0, largest, count, ..Shape::default() };
        let mut flow = self.flow(family, &shape)?;
        flow.start()?;
        flow.has_sent(count, std::time::Duration::from_secs(60))?;
        flow.finish()
    }

    /// Says that this scenario sends its canary in clear on purpose.
    pub fn allow_canary(&self) {
        *self.canaries.borrow_mut() = Canaries::Allowed;
    }

    /// What the outer interfaces have seen so far: left, right.
    pub fn captured(&self) -> Outcome<Vec<Captured>> {
        self.captures.borrow().iter().map(Capture::so_far).collect()
    }

    /// Fails when the canary has been seen in clear so far; returns what was searched.
    pub fn no_canary_so_far(&self) -> Outcome<Vec<Captured>> {
        let captured = self.captured()?;
        self.judge(&captured)?;
        Ok(captured)
    }

    /// Holds the outer captures (left, right) against what may be seen there. What was let in is
    /// looked for only where something arrived in clear.
    fn judge(&self, captured: &[Captured]) -> Outcome {
        let canary = self.canary.bytes();
        let ours = self.ours.borrow();
        if ours.is_empty() {
            return captured.iter().try_for_each(|one| clear::seen_none(one, canary));
        }
        for Ours { side, inside } in ours.iter() {
            let Some(outside) = captured.get(side.index()) else { continue };
            clear::sent_none(outside, canary)?;
            let arrived = clear::arrived(outside, canary);
            if !arrived.is_empty() {
                clear::took_none_in(&arrived, &inside.so_far()?)?;
            }
        }
        Ok(())
    }

    /// Ends the captures and searches them, which otherwise happens after the scenario: for a
    /// scenario that goes on with more packets than a capture can hold.
    pub fn search_captures(&self) -> Outcome {
        let captures: Vec<Capture> = self.captures.borrow_mut().drain(..).collect();
        let captured: Vec<Captured> =
            captures.into_iter().map(Capture::finish).collect::<Outcome<_>>()?;
        for one in &captured {
            ensure(!one.packets.is_empty(), || {
                format!("the capture of {} saw nothing at all", one.title)
            })?;
        }
        if *self.canaries.borrow() == Canaries::Forbidden {
            self.judge(&captured)?;
        }
        Ok(())
    }

    /// Captures again after [`Lab::search_captures`].
    pub fn capture_again(&self) -> Outcome {
        let own: Vec<_> = self.captures.borrow().iter().map(|one| one.own().to_vec()).collect();
        self.search_captures()?;
        let mut captures = self.net.capture(&self.folder)?;
        for (capture, own) in captures.iter_mut().zip(own) {
            own.into_iter().for_each(|mac| capture.add_own(mac));
        }
        self.captures.borrow_mut().extend(captures);
        Ok(())
    }

    #[expect(clippy::print_stderr, reason = "a failed scenario explains itself to the test runner")]
    fn explain(&self, name: &str, why: &str) {
        eprintln!("==== {name}: {why}");
        for gateway in self.gateways.borrow().iter() {
            eprintln!("---- {} ----\n{}", gateway.title(), gateway.diagnosis());
        }
        for capture in self.captures.borrow().iter() {
            if let Ok(captured) = capture.so_far() {
                eprintln!("---- {}: {:?}", captured.title, captured.kinds());
            }
        }
        match keep(&self.folder, name) {
            Ok(kept) => eprintln!("---- files kept in {}", kept.display()),
            Err(failure) => eprintln!("---- files could not be kept: {failure}"),
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for gateway in self.gateways.borrow().iter() {
            gateway.end();
        }
    }
}

/// The name of the test that runs: the test runner names its threads so.
fn scenario_name() -> String {
    let program = std::env::current_exe().ok();
    let program = program.as_deref().and_then(Path::file_stem).map(|stem| stem.to_string_lossy());
    let program = program.unwrap_or_default();
    let program = program.rsplit_once('-').map_or(&*program, |(stem, _)| stem).to_owned();
    let thread = match std::thread::current().name() {
        Some("main") | None => std::env::args().nth(1).unwrap_or_default(),
        Some(name) => name.to_owned(),
    };
    format!("{program}-{}", thread.replace("::", "-"))
}

/// The folder `target/conformance` of the build this test belongs to.
fn target() -> Outcome<PathBuf> {
    let this = std::env::current_exe()?;
    let target = this.ancestors().nth(3).ok_or_else(|| Failure::new("no target folder"))?;
    let folder = target.join("conformance");
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Scenarios of several processes (nextest) and threads (`cargo test`) take turns by a file lock.
fn take_turn(turn: Turn) -> Outcome<File> {
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(target()?.join("turn.lock"))?;
    match turn {
        Turn::Shared => lock.lock_shared()?,
        Turn::Alone => lock.lock()?,
    }
    Ok(lock)
}

fn keep(folder: &Path, name: &str) -> Outcome<PathBuf> {
    let kept = target()?.join(name);
    let _ = fs::remove_dir_all(&kept);
    copy(folder, &kept)?;
    Ok(kept)
}

fn copy(from: &Path, to: &Path) -> Outcome {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, goal) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            copy(&entry.path(), &goal)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), goal)?;
        }
    }
    Ok(())
}
