//! `fuzz_corpus FOLDER`: writes the corpus of every fuzz target into `FOLDER/TARGET/`, for libFuzzer to start from.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cluster_tests::fuzz::{TARGETS, corpus};

fn write(folder: &Path) -> std::io::Result<()> {
    for (name, _) in TARGETS {
        std::fs::create_dir_all(folder.join(name))?;
        for (number, bytes) in corpus(name).into_iter().enumerate() {
            std::fs::write(folder.join(name).join(format!("sample-{number}")), bytes)?;
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: fuzz_corpus FOLDER");
        return ExitCode::from(2);
    };
    match write(&folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", folder.display());
            ExitCode::FAILURE
        }
    }
}
