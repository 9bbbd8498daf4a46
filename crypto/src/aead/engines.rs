//! Which engine does which suite.

use core::fmt;
use std::sync::Arc;

use sa_store::{EspSuite, KeyMaterial};

use super::{AwsLc, Choice, Engine, KeyError, NonceAudit, Ring, SuiteKey, calibrate};

/// The engines in use, and which of them each suite got. Cheap to clone; handed to whoever
/// makes keys.
#[derive(Clone, Default)]
pub struct Engines {
    choices: Arc<[Choice]>,
    audit: Option<Arc<dyn NonceAudit>>,
}

impl Engines {
    /// The portable choice without measuring: AWS-LC for everything.
    #[must_use]
    pub fn portable() -> Self {
        Self::default()
    }

    /// Measures each suite on each engine that does it and takes the fastest. `clock` gives
    /// nanoseconds on any monotonic scale; about 20 ms are spent.
    #[must_use]
    pub fn calibrated(clock: &mut dyn FnMut() -> u64) -> Self {
        let choices = calibrate::choose(&[AwsLc::engine(), Ring::engine()], clock);
        Self { choices: choices.into(), audit: None }
    }

    /// The same engines, with an auditor on every key they make from now on.
    #[must_use]
    pub fn with_audit(mut self, auditor: Arc<dyn NonceAudit>) -> Self {
        self.audit = Some(auditor);
        self
    }

    /// The engine for a suite.
    #[must_use]
    pub fn engine(&self, suite: EspSuite) -> &'static dyn Engine {
        self.choices
            .iter()
            .find(|choice| choice.suite() == suite)
            .map_or_else(AwsLc::engine, Choice::engine)
    }

    /// What was measured, for status and logs; empty without calibration.
    #[must_use]
    pub fn choices(&self) -> &[Choice] {
        &self.choices
    }

    /// Expands the key of one SA.
    ///
    /// # Errors
    /// When a length is not the suite's.
    pub fn key(&self, suite: EspSuite, keys: &KeyMaterial) -> Result<SuiteKey, KeyError> {
        let key = SuiteKey::new(self.engine(suite), suite, keys)?;
        Ok(match &self.audit {
            Some(auditor) => key.with_audit(keys, Arc::clone(auditor)),
            None => key,
        })
    }
}

impl fmt::Debug for Engines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.choices.iter()).finish()
    }
}
