//! Applies the configuration file again: all of it or nothing.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use gateway::{
    command::{Command, Outcome},
    spec::Origin,
};

use crate::{
    config::{self, Config, GatewayConfig, InlineConfig, OnStop},
    runtime::handle::Handle,
};

/// What of a configuration holds now.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The gateway's name.
    pub name: String,
    /// What a clean stop leaves.
    pub on_stop: OnStop,
    gateway: GatewayConfig,
    inline: InlineConfig,
}

impl Settings {
    /// The settings of a configuration.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        Self {
            name: config.gateway.name.clone().unwrap_or_else(host_name),
            on_stop: config.gateway.on_stop,
            gateway: config.gateway.clone(),
            inline: config.inline.clone(),
        }
    }

    /// Networks that stay outside every policy.
    pub(super) fn clear(&self) -> impl Iterator<Item = String> {
        self.gateway.clear.iter().map(ToString::to_string)
    }

    /// The first key that differs and cannot change while the daemon runs.
    fn fixed_difference(&self, other: &Self) -> Option<&'static str> {
        [
            ("gateway.control", self.gateway.control == other.gateway.control),
            ("gateway.state_dir", self.gateway.state_dir == other.gateway.state_dir),
            ("gateway.dataplane", self.gateway.dataplane == other.gateway.dataplane),
            ("inline.interface", self.inline.interface == other.inline.interface),
            ("inline.workers", self.inline.workers == other.inline.workers),
        ]
        .into_iter()
        .find(|(_, same)| !same)
        .map(|(key, _)| key)
    }
}

fn host_name() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = text.trim().chars().filter(|c| !c.is_control()).take(64).collect();
    if name.is_empty() { "gateway".into() } else { name }
}

/// Reads the file again and hands it to the gateway; one at a time.
#[derive(Debug)]
pub struct Reloader {
    path: PathBuf,
    handle: Handle,
    settings: Arc<Mutex<Settings>>,
    turn: tokio::sync::Mutex<()>,
}

impl Reloader {
    /// For the file at `path`, of which `settings` hold now.
    #[must_use]
    pub fn new(path: PathBuf, handle: Handle, settings: Settings) -> Self {
        let settings = Arc::new(Mutex::new(settings));
        Self { path, handle, settings, turn: tokio::sync::Mutex::new(()) }
    }

    /// What holds now.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Applies the file. What was begun is brought to its end also when nobody waits for it any
    /// more: the tunnels and the settings are of one file.
    ///
    /// # Errors
    /// Why nothing changed, for people.
    pub async fn reload(self: &Arc<Self>) -> Result<String, String> {
        let this = Arc::clone(self);
        let reloading = tokio::spawn(async move { this.reload_in_turn().await });
        let failed = |_| Err("reloading failed with an internal error; see the log".to_owned());
        reloading.await.unwrap_or_else(failed)
    }

    async fn reload_in_turn(&self) -> Result<String, String> {
        let _turn = self.turn.lock().await;
        let path = self.path.clone();
        let loaded = tokio::task::spawn_blocking(move || config::load(&path)).await;
        let config = loaded
            .map_err(|_| "reading the configuration failed with an internal error".to_owned())?
            .map_err(|report| format!("the configuration has errors\n{report}"))?;
        let settings = Settings::of(&config);
        if let Some(key) = self.settings().fixed_difference(&settings) {
            return Err(format!("`{key}` cannot change while posternd runs; restart it"));
        }
        if !config.warnings.is_empty() {
            tracing::warn!("{}", config.warnings);
        }
        let command = Command::Apply { origin: Origin::File, connections: config.connections };
        match self.handle.act(command).await {
            Ok(Outcome::Done(message)) => {
                *self.settings.lock().unwrap_or_else(PoisonError::into_inner) = settings;
                Ok(message)
            }
            Ok(Outcome::Failed { message, .. }) => Err(message),
            Err(_) => Err("the daemon is stopping".into()),
        }
    }
}
