//! Configuration texts: read to the end, with messages for whatever is wrong, and no secret in
//! them.

use std::path::Path;

use daemon::config::{Context, Exposure, NoFiles, parse};

use crate::{Target, engine::Answer, seed};

/// The target.
pub const TARGET: Target = Target { name: "config", run, repair: None, seeds: seed::config_texts };

/// A key that seeds hold; it must come out nowhere.
pub(crate) const SECRET: &str = "PlantedSecretKey";

fn run(input: &[u8]) -> u64 {
    let Ok(text) = std::str::from_utf8(input) else { return 0 };
    let context = Context {
        file: "config.toml",
        folder: Path::new("."),
        exposed: input.first().filter(|first| **first == b'#').map(|_| Exposure::Mode(0o644)),
        secrets: &NoFiles,
    };
    let mut answer = Answer::default();
    match parse(text, &context) {
        Ok(config) => {
            let shown = format!("{config:?}");
            assert!(!shown.contains(SECRET), "a secret is shown: {shown}");
            answer.add(1);
            answer.add_size(config.connections.len());
            for connection in &config.connections {
                answer.add_size(connection.children.len());
            }
            answer.add_size(config.warnings.to_string().len());
        }
        Err(report) => {
            let shown = report.to_string();
            assert!(!shown.is_empty(), "an error without a message");
            answer.add(2);
            // Digits and names come from the input; the words around them are the kind of error.
            let words = shown.split_whitespace().filter(|word| {
                word.len() > 2 && word.bytes().all(|octet| octet.is_ascii_lowercase())
            });
            for word in words.take(24) {
                answer.add_text(word);
            }
        }
    }
    answer.get()
}
