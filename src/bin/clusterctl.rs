//! The admin tool. See [`regroup::cli`].

fn main() -> std::process::ExitCode {
    regroup::cli::clusterctl()
}
