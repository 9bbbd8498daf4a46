//! The committed gRPC code is what the proto files say.
//!
//! It is generated once and not at every build: the compiler of proto files and what it needs
//! are a good part of a clean build. After a change to a proto file:
//!
//! ```console
//! $ POSTERN_GENERATE=1 cargo test -p api
//! ```

use std::{error::Error, fs, path::Path};

#[test]
fn the_committed_code_is_what_the_proto_files_say() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = protox::compile(["postern/v1/control.proto"], [here.join("proto")])?;
    tonic_prost_build::configure().out_dir(folder.path()).compile_fds(files)?;
    let generated = fs::read_to_string(folder.path().join("postern.v1.rs"))?;
    let committed = here.join("src/generated/postern.v1.rs");
    if std::env::var_os("POSTERN_GENERATE").is_some() {
        fs::write(&committed, &generated)?;
    }
    if fs::read_to_string(&committed)? == generated {
        return Ok(());
    }
    Err("src/generated/postern.v1.rs is not what proto/ says: run `POSTERN_GENERATE=1 cargo test -p api`".into())
}
