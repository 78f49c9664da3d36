//! Licences, bans, sources and known vulnerabilities of the dependency tree.
//!
//! The policy is `deny.toml`, in cargo-deny's own format: where cargo-deny and its database can be had, `cargo deny check` reads the same
//! file. This module enforces the part of it that needs nothing but `Cargo.lock`, `cargo tree` and the vendored list of advisories
//! (docs/decisions/0008), and refuses a policy that says more than that, so that no line of it goes unheeded.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use toml::{Table, Value};

use crate::{advisories, steps};

/// The only source: the public registry under its canonical name, whatever mirror a machine reaches it through.
const SOURCE: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Everything of `deny.toml` that is enforced, as `section.key`. `graph.targets` narrows cargo-deny to the platforms we build for;
/// here the tree is the host's own, and sources and advisories are checked for the whole lock file.
const KNOWN: [&str; 7] = [
    "graph.targets",
    "licenses.allow",
    "bans.deny",
    "bans.features",
    "sources.unknown-registry",
    "sources.unknown-git",
    "advisories.ignore",
];

/// One package of the tree.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Package {
    name: String,
    version: String,
    licence: String,
    features: Vec<String>,
}

/// Checks the tree against `deny.toml` and the advisories.
///
/// # Errors
/// All findings, one to a line.
pub(crate) fn check(root: &Path) -> Result<String, String> {
    let policy = parse(&read(root, "deny.toml")?, "deny.toml")?;
    let lock = parse(&read(root, "Cargo.lock")?, "Cargo.lock")?;
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let format = "{p}\t{l}\t{f}";
    let tree = ["tree", "--workspace", "--locked", "--edges", "normal,build,dev", "--prefix", "none", "--format", format];
    let packages = parse_tree(&steps::output(root, &cargo, &tree)?);
    let list = advisories::read(root)?;

    let mut findings = unheeded(&policy);
    findings.extend(licences(&policy, &packages));
    findings.extend(bans(&policy, &packages));
    findings.extend(sources(&lock));
    findings.extend(advisories::findings(&list, &locked(&lock), &ignored(&policy)));
    if findings.is_empty() {
        Ok(format!("{} packages, {} advisories as of {}", packages.len(), list.entries.len(), list.as_of))
    } else {
        Err(findings.join("\n"))
    }
}

fn read(root: &Path, name: &str) -> Result<String, String> {
    std::fs::read_to_string(root.join(name)).map_err(|error| format!("can't read {name}: {error}"))
}

fn parse(text: &str, name: &str) -> Result<Table, String> {
    text.parse().map_err(|error| format!("{name}: {error}"))
}

fn section<'a>(policy: &'a Table, name: &str, key: &str) -> &'a [Value] {
    policy.get(name).and_then(|section| section.get(key)).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Keys of the policy that this module doesn't know, and so wouldn't enforce.
fn unheeded(policy: &Table) -> Vec<String> {
    let keys = policy.iter().flat_map(|(name, section)| {
        let keys = section.as_table().into_iter().flat_map(|table| table.keys());
        keys.map(move |key| format!("{name}.{key}"))
    });
    keys.filter(|key| !KNOWN.contains(&key.as_str())).map(|key| format!("deny.toml: the gate doesn't enforce {key}")).collect()
}

/// Lines of `name vVERSION (path or marks)\tlicence\tfeatures`, each package once.
fn parse_tree(tree: &str) -> BTreeSet<Package> {
    let package = |line: &str| {
        let mut fields = line.split('\t');
        let mut words = fields.next()?.split(' ');
        let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
        let licence = fields.next()?.to_string();
        let features = fields.next()?.trim_end_matches(" (*)").split(',').map(str::to_string).collect();
        Some(Package { name: name.into(), version: version.into(), licence, features })
    };
    tree.lines().filter_map(package).collect()
}

fn licences(policy: &Table, packages: &BTreeSet<Package>) -> Vec<String> {
    let allowed: Vec<&str> = section(policy, "licenses", "allow").iter().filter_map(Value::as_str).collect();
    let refused = packages.iter().filter(|package| !licence_allowed(&package.licence, &allowed));
    refused.map(|package| format!("{} {}: licence \"{}\" is not allowed", package.name, package.version, package.licence)).collect()
}

/// Evaluates an SPDX expression: `OR` binds weaker than `AND`, `WITH` belongs to its licence, `/` is an old way to write `OR`.
fn licence_allowed(expression: &str, allowed: &[&str]) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let outcome = any_of(&words, &mut at, allowed);
    outcome && at == words.len()
}

fn any_of(words: &[&str], at: &mut usize, allowed: &[&str]) -> bool {
    let mut outcome = all_of(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        outcome |= all_of(words, at, allowed);
    }
    outcome
}

fn all_of(words: &[&str], at: &mut usize, allowed: &[&str]) -> bool {
    let mut outcome = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        outcome &= one(words, at, allowed);
    }
    outcome
}

fn one(words: &[&str], at: &mut usize, allowed: &[&str]) -> bool {
    let Some(&word) = words.get(*at) else { return false };
    *at += 1;
    if word == "(" {
        let outcome = any_of(words, at, allowed);
        let closed = words.get(*at) == Some(&")");
        *at += 1;
        return outcome && closed;
    }
    if words.get(*at) == Some(&"WITH") {
        let with = format!("{word} WITH {}", words.get(*at + 1).unwrap_or(&""));
        *at += 2;
        return allowed.contains(&with.as_str());
    }
    allowed.contains(&word)
}

fn bans(policy: &Table, packages: &BTreeSet<Package>) -> Vec<String> {
    let mut findings = Vec::new();
    for ban in section(policy, "bans", "deny") {
        let banned = packages.iter().filter(|package| package.name == text(ban, "crate"));
        findings.extend(banned.map(|package| format!("{} {}: banned: {}", package.name, package.version, text(ban, "reason"))));
    }
    for rule in section(policy, "bans", "features") {
        let denied: Vec<&str> =
            rule.get("deny").and_then(Value::as_array).map_or(&[][..], Vec::as_slice).iter().filter_map(Value::as_str).collect();
        for package in packages.iter().filter(|package| package.name == text(rule, "crate")) {
            let on = package.features.iter().filter(|feature| denied.contains(&feature.as_str()));
            findings.extend(
                on.map(|feature| format!("{} {}: feature {feature} is banned: {}", package.name, package.version, text(rule, "reason"))),
            );
        }
    }
    findings
}

fn locked_packages(lock: &Table) -> &[Value] {
    lock.get("package").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Packages without a source are ours.
fn sources(lock: &Table) -> Vec<String> {
    let elsewhere = |package: &&Value| !["", SOURCE].contains(&text(package, "source"));
    let foreign = locked_packages(lock).iter().filter(elsewhere);
    foreign.map(|package| format!("{}: comes from {}, not from the registry", text(package, "name"), text(package, "source"))).collect()
}

/// Versions of each package in the lock file, all platforms included.
fn locked(lock: &Table) -> BTreeMap<String, Vec<String>> {
    let mut versions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in locked_packages(lock).iter().filter(|package| !text(package, "source").is_empty()) {
        versions.entry(text(package, "name").into()).or_default().push(text(package, "version").into());
    }
    versions
}

/// Advisories that the policy excuses; an excuse has a reason.
fn ignored(policy: &Table) -> BTreeSet<String> {
    let excused = section(policy, "advisories", "ignore").iter().filter(|entry| !text(entry, "reason").is_empty());
    excused.map(|entry| text(entry, "id").to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(licence: &str, features: &[&str]) -> BTreeSet<Package> {
        let features = features.iter().map(|feature| feature.to_string()).collect();
        BTreeSet::from([Package { name: "rustls".into(), version: "1.0.0".into(), licence: licence.into(), features }])
    }

    #[test]
    fn licence_expressions_are_evaluated() {
        let allowed = ["MIT", "Apache-2.0", "Unicode-3.0", "Apache-2.0 WITH LLVM-exception"];
        for fine in [
            "MIT",
            "MIT/GPL-3.0",
            "GPL-3.0 OR MIT",
            "(MIT OR GPL-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception",
            "GPL-3.0 OR Apache-2.0",
        ] {
            assert!(licence_allowed(fine, &allowed), "{fine}");
        }
        for bad in [
            "",
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "(MIT OR Apache-2.0) AND GPL-2.0",
            "MIT WITH Unknown-exception",
            "(MIT",
            "MIT)",
            "MIT Apache-2.0",
        ] {
            assert!(!licence_allowed(bad, &allowed), "{bad}");
        }
    }

    #[test]
    fn the_tree_is_read_with_marks_and_duplicates() {
        let packages = parse_tree("a v1.0.0\tMIT\tdefault,std\na v1.0.0\tMIT\tdefault,std (*)\nown v0.1.0 (/somewhere)\tApache-2.0\t\n\n");
        assert_eq!(packages.len(), 2);
        assert_eq!(packages.first().map(|first| first.features.clone()), Some(vec!["default".to_string(), "std".to_string()]));
    }

    #[test]
    fn banned_crates_features_and_licences_are_found() {
        let policy = "licenses.allow = ['MIT']\n[bans]\nfeatures = [{ crate = 'rustls', deny = ['ring'], reason = 'two providers' }]\n";
        let policy: Table = policy.parse().unwrap();
        assert!(bans(&policy, &package("MIT", &["std"])).is_empty());
        assert_eq!(bans(&policy, &package("MIT", &["std", "ring"])), ["rustls 1.0.0: feature ring is banned: two providers"]);
        assert_eq!(licences(&policy, &package("GPL-3.0", &[])).len(), 1);
        let policy: Table = "[bans]\ndeny = [{ crate = 'rustls', reason = 'no' }]\n".parse().unwrap();
        assert_eq!(bans(&policy, &package("MIT", &[])), ["rustls 1.0.0: banned: no"]);
    }

    #[test]
    fn foreign_sources_and_unknown_policy_are_found() {
        let lock = format!("[[package]]\nname='a'\nsource='{SOURCE}'\n[[package]]\nname='own'\n[[package]]\nname='b'\nsource='git+x'\n");
        let lock: Table = lock.parse().unwrap();
        assert_eq!(sources(&lock), ["b: comes from git+x, not from the registry"]);
        let policy: Table = "[bans]\nskip = []\n".parse().unwrap();
        assert_eq!(unheeded(&policy), ["deny.toml: the gate doesn't enforce bans.skip"]);
    }
}
