//! The configuration file that `clusterctl init` writes: every option with its meaning, default and range, so that the file can be
//! edited without a manual. What was chosen stands as a value; what wasn't stands as a comment with its default.

pub mod options;

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::config::Interconnect;
use super::size::show_size;
use options::{Explained, FENCE, GUARD, MEMBERSHIP, OPTIONS, POSTGRES};

/// What is chosen when a cluster is made.
pub struct Chosen<'c> {
    /// The cluster's id.
    pub cluster: String,
    /// Redo files, relative to the configuration.
    pub redo: Vec<String>,
    /// Data files, relative to the configuration.
    pub data: Vec<String>,
    /// Voting files, relative to the configuration.
    pub voting: Vec<String>,
    /// Options that aren't to have their default: name and value as they stand in the file.
    pub options: &'c [(&'static str, String)],
    /// Where clients find instance 1.
    pub listen: SocketAddr,
}

/// The file's text.
pub fn render(chosen: &Chosen<'_>) -> String {
    let mut text = format!(
        "# Regroup cluster {}: the configuration of all its instances, written by `clusterctl init`.\n\
         #\n\
         # Read when an instance starts: after a change, stop and start it. A value out of range, or a name that isn't known, is refused\n\
         # with its line. Lines that begin with # and a name show the default; take the # away to change it.\n\
         # `clusterctl config` shows what is in effect.\n",
        chosen.cluster
    );
    storage(&mut text, chosen);
    let _ = write!(
        text,
        "\n[postgres]\n\
         # Where PostgreSQL clients find instance 1: address and port; instance 2 has the next port, and so on, unless [[instances]] says\n\
         # otherwise. Port 0 is any free one, which `clusterctl status` shows. Until instances share their caches only instance 1 serves SQL: the\n\
         # others refuse clients, and name its address. A fresh cluster lets role \"regroup\" into database \"regroup\" without a password, from this\n\
         # host only. Default: without this section no clients are served.\n\
         listen = \"{}\"\n",
        chosen.listen
    );
    explain(&mut text, POSTGRES, &[]);
    text.push_str("\n[options]\n");
    explain(&mut text, OPTIONS, chosen.options);
    text.push_str("\n[membership]\n# How instances find out that one is dead. The defaults suit one site; slower networks and storage need longer times.\n");
    explain(&mut text, MEMBERSHIP, &[]);
    interconnect(&mut text);
    text.push_str("\n[fence]\n");
    explain(&mut text, FENCE, &[]);
    text.push_str("\n[guard]\n");
    explain(&mut text, GUARD, &[]);
    instances(&mut text, chosen.redo.len());
    text
}

fn storage(text: &mut String, chosen: &Chosen<'_>) {
    let list = |files: &[String]| files.iter().map(|file| format!("{file:?}")).collect::<Vec<_>>().join(", ");
    let _ = write!(
        text,
        "\n[storage]\n\
         # The storage files, relative to this file, in order: the first redo file is instance 1's, the first data file is number 0. Each is a regular\n\
         # file or a block device, and every host must reach all of them, by the same path for a block device. Each file knows its place, so a wrong\n\
         # order or a file of another cluster is refused. Files may be moved while all instances are stopped.\n\
         redo = [{}]\n\
         data = [{}]\n\
         # The voting files, 1, 3 or 5: a majority of them decides which instances are members. Put each on a storage device of its own: then the\n\
         # cluster survives the loss of a minority. `clusterctl voting replace` puts another file in one's place while the cluster runs.\n\
         voting = [{}]\n",
        list(&chosen.redo),
        list(&chosen.data),
        list(&chosen.voting)
    );
}

fn interconnect(text: &mut String) {
    let default = Interconnect::default();
    let _ = write!(
        text,
        "\n[interconnect]\n\
         \n\
         # Where an instance, and its guard, listen for the other instances: address and port. Port 0 is any free one, and best: the others find\n\
         # it on the voting files. With instances on several hosts, give each its own address in [[instances]].\n\
         # Default \"{0}\".\n\
         # listen = \"{0}\"\n\
         \n\
         # Folder of the certificates, relative to this file: ca.pem, and instance-N.pem, which holds a key, too, for each instance of this host.\n\
         # ca-key.pem signs new ones: no instance needs it, and whoever has it can make members. Keep it elsewhere if you can.\n\
         # Default {1:?}.\n\
         # tls = {1:?}\n",
        default.listen, default.tls
    );
}

fn instances(text: &mut String, count: usize) {
    text.push_str(
        "\n# What is one instance's own, each line to be left out where the sections above say it: where clients find it, where peers find it, and\n\
         # where they find its guard.\n",
    );
    for id in 1..=count {
        let _ = write!(
            text,
            "\n[[instances]]\n\
             id = {id}\n\
             # listen = \"127.0.0.1:7432\"\n\
             # interconnect = \"127.0.0.1:0\"\n\
             # guard = \"127.0.0.1:0\"\n"
        );
    }
}

/// Writes each of `options`, with its value where one is chosen.
fn explain(text: &mut String, options: &[Explained], chosen: &[(&'static str, String)]) {
    for option in options {
        text.push('\n');
        for line in option.meaning {
            let _ = writeln!(text, "# {line}");
        }
        let _ = writeln!(text, "# Default {}{}; allowed: {}.", option.default, in_units(option, option.default), option.range);
        match chosen.iter().find(|(name, _)| *name == option.name) {
            Some((name, value)) => {
                let _ = writeln!(text, "{name} = {value}{}", in_units(option, value).replace(" (", "  # ").replace(')', ""));
            }
            None => {
                let _ = writeln!(text, "# {} = {}", option.name, option.default);
            }
        }
    }
}

/// A number of bytes in larger units, in parentheses; nothing for other options.
fn in_units(option: &Explained, value: &str) -> String {
    let bytes = option.name.contains("_bytes").then(|| value.parse().ok()).flatten();
    bytes.map_or_else(String::new, |bytes| format!(" ({})", show_size(bytes)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::base::options::Options;
    use crate::cli::config::Config;
    use crate::fence::options::FenceOptions;
    use crate::membership::options::Options as MembershipOptions;
    use crate::node::guard::options::GuardOptions;
    use crate::sql::wire::options::PostgresOptions;

    fn sample(options: &[(&'static str, String)]) -> String {
        render(&Chosen {
            cluster: "c0ffee".into(),
            redo: vec!["storage/redo.1".into()],
            data: vec!["storage/data.0".into(), "storage/a \"b\"".into()],
            voting: vec!["storage/voting.1".into()],
            options,
            listen: "127.0.0.1:7432".parse().unwrap(),
        })
    }

    fn explained_truly(options: &[Explained], defaults: &toml::Table, elsewhere: &[&str]) {
        for name in defaults.keys().filter(|name| !elsewhere.contains(&name.as_str())) {
            assert!(options.iter().any(|option| option.name == name), "{name} isn't explained in this file's lists");
        }
        for option in options {
            let said: toml::Table = toml::from_str(&format!("{} = {}", option.name, option.default)).unwrap();
            assert_eq!(Some(&said[option.name]), defaults.get(option.name), "{}", option.name);
        }
    }

    #[test]
    fn every_option_is_explained_with_its_true_default() {
        explained_truly(OPTIONS, &toml::Table::try_from(Options::default()).unwrap(), &[]);
        explained_truly(POSTGRES, &toml::Table::try_from(PostgresOptions::default()).unwrap(), &["listen"]);
        explained_truly(MEMBERSHIP, &toml::Table::try_from(MembershipOptions::default()).unwrap(), &[]);
        explained_truly(FENCE, &toml::Table::try_from(FenceOptions::default()).unwrap(), &[]);
        explained_truly(GUARD, &toml::Table::try_from(GuardOptions::default()).unwrap(), &[]);
    }

    #[test]
    fn the_file_says_what_was_chosen() {
        let text = sample(&[("cache_bytes", (128u64 << 20).to_string()), ("disk", "\"threads\"".into())]);
        let config = Config::parse(&text, Path::new("/d/regroup.toml")).unwrap();
        let expected = Options { cache_bytes: 128 << 20, disk: crate::base::options::DiskKind::Threads, ..Options::default() };
        assert_eq!(config.options, expected);
        assert_eq!(config.storage.redo, [Path::new("/d/storage/redo.1")]);
        assert_eq!(config.storage.data[1], Path::new("/d/storage/a \"b\""));
        assert_eq!(config.storage.voting, [Path::new("/d/storage/voting.1")]);
        assert_eq!(config.listen(), Some("127.0.0.1:7432".parse().unwrap()));
        assert!(text.contains("cache_bytes = 134217728  # 128 MiB"), "{text}");
    }

    #[test]
    fn the_file_still_parses_with_every_comment_sign_before_an_option_taken_away() {
        let text = sample(&[]);
        let all = || OPTIONS.iter().chain(POSTGRES).chain(MEMBERSHIP).chain(FENCE).chain(GUARD).map(|option| option.name);
        let names =
            |line: &str| all().chain(["listen", "tls", "interconnect", "guard"]).any(|name| line.starts_with(&format!("# {name} = ")));
        let uncommented: String = text.lines().map(|line| format!("{}\n", if names(line) { &line[2..] } else { line })).collect();
        assert_ne!(uncommented, text);
        let config = Config::parse(&uncommented, Path::new("/d/regroup.toml")).unwrap();
        assert_eq!(config.options, Options::default());
        assert_eq!(config.membership, MembershipOptions::default());
        assert_eq!((config.fence.clone(), config.guard.clone()), (FenceOptions::default(), GuardOptions::default()));
        assert_eq!((config.interconnect(), config.guard_listen()), (Interconnect::default().listen, Interconnect::default().listen));
        let listen = "127.0.0.1:7432".parse().unwrap();
        assert_eq!(config.postgres, Some(PostgresOptions { listen, ..PostgresOptions::default() }));
    }
}
