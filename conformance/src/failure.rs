//! The one error of the harness: a sentence, with what was seen.

use std::fmt;

/// Why a scenario failed. `Debug` prints the sentence as it is, because that is what the test
/// runner shows of a returned error.
pub struct Failure(String);

/// What every step of a scenario returns.
pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// A failure with this explanation.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The same failure, saying first what was being done.
    #[must_use]
    pub fn while_doing(self, what: &str) -> Self {
        Self(format!("{what}: {}", self.0))
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self(format!("input/output: {error}"))
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self(format!("not the expected JSON: {error}"))
    }
}

/// Fails unless the condition holds; the explanation is only formatted when it does not.
pub fn ensure(condition: bool, explain: impl FnOnce() -> String) -> Outcome {
    if condition { Ok(()) } else { Err(Failure::new(explain())) }
}
