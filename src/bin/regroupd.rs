//! The daemon of one instance. See [`regroup::cli`].

fn main() -> std::process::ExitCode {
    regroup::cli::regroupd()
}
