//! What `make install` puts into a system.

use std::path::Path;

use crate::command::{must, require};
use crate::failure::{Failure, Outcome};
use crate::postern::built;

/// `make TARGET` of this repository into `root`, with the programs that are judged.
pub fn make(target: &str, root: &Path, prefix: &str) -> Outcome {
    require("make")?;
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").display().to_string();
    let programs = built("posternd")?;
    let folder = programs.parent().ok_or_else(|| Failure::new("posternd lies nowhere"))?;
    let (destdir, prefix) = (format!("DESTDIR={}", root.display()), format!("PREFIX={prefix}"));
    let from = format!("BUILT={}", folder.display());
    must(&["make", "-s", "-C", &top, target, &destdir, &prefix, &from]).map(drop)
}
