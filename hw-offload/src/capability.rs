//! What a backend can hold: known before it is hit.

use sa_store::{Encapsulation, Esn, EspSuite, Mode, Path, SaRecord};

/// What a backend can hold and do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Capabilities {
    /// How operators see it.
    pub path: Path,
    /// SAs (single directions) it can hold.
    pub max_sas: u64,
    /// SAs it holds now.
    pub used_sas: u64,
    /// Suites it runs.
    pub suites: Vec<EspSuite>,
    /// Whether it does 64-bit sequence numbers.
    pub esn: bool,
    /// Whether it does ESP in UDP.
    pub udp_encapsulation: bool,
    /// Whether it does raw ESP.
    pub raw_esp: bool,
    /// Whether it does transport mode.
    pub transport_mode: bool,
    /// The largest replay window in packets.
    pub max_replay_window: u32,
}

impl Capabilities {
    /// Of a gateway with no place at all.
    pub(crate) const fn nothing() -> Self {
        Self {
            path: Path::Inline,
            max_sas: 0,
            used_sas: 0,
            suites: Vec::new(),
            esn: false,
            udp_encapsulation: false,
            raw_esp: false,
            transport_mode: false,
            max_replay_window: 0,
        }
    }

    /// What two places can do together, under the path of the first.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.max_sas = self.max_sas.saturating_add(other.max_sas);
        self.used_sas = self.used_sas.saturating_add(other.used_sas);
        for suite in other.suites {
            if !self.suites.contains(&suite) {
                self.suites.push(suite);
            }
        }
        self.esn |= other.esn;
        self.udp_encapsulation |= other.udp_encapsulation;
        self.raw_esp |= other.raw_esp;
        self.transport_mode |= other.transport_mode;
        self.max_replay_window = self.max_replay_window.max(other.max_replay_window);
        self
    }

    /// Whether the backend can run `sa`; the error says what is missing, for people.
    ///
    /// # Errors
    /// The first thing that the backend lacks.
    pub fn can_run(&self, sa: &SaRecord) -> Result<(), String> {
        let refuse = |what: String| Err(format!("{} {what}", self.path));
        if self.used_sas >= self.max_sas {
            return refuse(format!("is full: it holds {} SAs", self.max_sas));
        }
        if !self.suites.contains(&sa.transform.suite) {
            return refuse(format!("does not run {}", sa.transform.suite));
        }
        if sa.transform.esn == Esn::Yes && !self.esn {
            return refuse("has no extended sequence numbers".into());
        }
        match sa.encapsulation {
            Encapsulation::Udp if !self.udp_encapsulation => {
                return refuse("cannot carry ESP in UDP".into());
            }
            Encapsulation::None if !self.raw_esp => return refuse("cannot carry raw ESP".into()),
            _ => {}
        }
        if sa.mode == Mode::Transport && !self.transport_mode {
            return refuse("has no transport mode".into());
        }
        if sa.replay_window > self.max_replay_window {
            return refuse(format!("has replay windows of at most {}", self.max_replay_window));
        }
        Ok(())
    }
}
