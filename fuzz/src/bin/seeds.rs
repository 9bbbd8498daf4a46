//! Writes the inputs that targets start from into `fuzz/seeds/`. Files that are there stay.

use std::{error::Error, fs};

use fuzz::{TARGETS, seed_folder};

fn main() -> Result<(), Box<dyn Error>> {
    for target in TARGETS {
        let folder = seed_folder(target);
        fs::create_dir_all(&folder)?;
        for (name, input) in (target.seeds)() {
            let file = folder.join(name);
            if !file.exists() {
                fs::write(&file, input)?;
                println!("{}", file.display());
            }
        }
    }
    Ok(())
}
