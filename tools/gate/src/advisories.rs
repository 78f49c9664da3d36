//! Known vulnerabilities: a condensed copy of the RustSec advisory database, kept in the repository.
//!
//! CI reaches package registries and nothing else, so the database can't be fetched there. The copy has one line per advisory and the
//! day it was taken; `gate advisories CHECKOUT` renews it. What was published after that day is not found: the date is printed by each
//! check, so that a reader sees how old the knowledge is.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use semver::{Version, VersionReq};
use toml::{Table, Value};

use crate::steps;

const FILE: &str = "tools/gate/advisories.toml";

/// The copy.
pub(crate) struct List {
    /// Day of the database's newest change, as written by git.
    pub(crate) as_of: String,
    pub(crate) entries: Vec<Entry>,
}

/// One advisory: which versions of which package it is about.
pub(crate) struct Entry {
    id: String,
    package: String,
    /// `vulnerability`, or RustSec's word for milder ones: `unmaintained`, `unsound`, `notice`.
    kind: String,
    /// Requirements of which a version fulfils one when it is not affected (patched, or from before the mistake).
    unaffected: Vec<String>,
}

impl Entry {
    /// Whether `version` is affected. A version or requirement that can't be read counts as affected: someone must look.
    fn concerns(&self, version: &str) -> bool {
        let Ok(version) = Version::parse(version) else { return true };
        !self.unaffected.iter().any(|range| VersionReq::parse(range).is_ok_and(|range| range.matches(&version)))
    }
}

/// Reads the copy.
///
/// # Errors
/// When it is missing, or not as `import` writes it.
pub(crate) fn read(root: &Path) -> Result<List, String> {
    let text = std::fs::read_to_string(root.join(FILE)).map_err(|error| format!("can't read {FILE}: {error}"))?;
    parse(&text).map_err(|error| format!("{FILE}: {error}"))
}

fn parse(text: &str) -> Result<List, String> {
    let table: Table = text.parse().map_err(|error| format!("{error}"))?;
    let as_of = table.get("as-of").and_then(Value::as_str).ok_or("as-of is missing")?.to_string();
    let rows = table.get("advisories").and_then(Value::as_array).ok_or("advisories are missing")?;
    let entries = rows.iter().map(entry).collect::<Option<Vec<Entry>>>().ok_or("an entry lacks id, package, kind or unaffected")?;
    Ok(List { as_of, entries })
}

fn entry(row: &Value) -> Option<Entry> {
    let text = |key: &str| row.get(key).and_then(Value::as_str).map(str::to_string);
    Some(Entry { id: text("id")?, package: text("package")?, kind: text("kind")?, unaffected: strings(row.get("unaffected"))? })
}

fn strings(value: Option<&Value>) -> Option<Vec<String>> {
    value?.as_array()?.iter().map(|item| item.as_str().map(str::to_string)).collect()
}

/// Locked versions that an advisory concerns, unless it is excused; and excuses that excuse nothing.
pub(crate) fn findings(list: &List, locked: &BTreeMap<String, Vec<String>>, excused: &BTreeSet<String>) -> Vec<String> {
    let mut unused = excused.clone();
    let mut findings = Vec::new();
    for entry in &list.entries {
        let versions = locked.get(&entry.package).map_or(&[][..], Vec::as_slice);
        for version in versions.iter().filter(|version| entry.concerns(version)) {
            if excused.contains(&entry.id) {
                unused.remove(&entry.id);
                continue;
            }
            findings
                .push(format!("{} {version}: {} ({}); fixed or unaffected: {:?}", entry.package, entry.id, entry.kind, entry.unaffected));
        }
    }
    findings.extend(unused.iter().map(|id| format!("deny.toml: ignores {id}, which concerns no locked package")));
    findings
}

/// Rewrites the copy from a checkout (bare or not) of the database.
///
/// # Errors
/// When the checkout can't be read, or the copy not written.
pub(crate) fn import(root: &Path, checkout: &Path) -> Result<(), String> {
    let as_of = steps::output(checkout, "git", &["log", "-1", "--format=%cs"])?.trim().to_string();
    let files = steps::output(checkout, "git", &["ls-tree", "-r", "--name-only", "HEAD", "crates"])?;
    let mut text = format!(
        "# Condensed from the RustSec advisory database (CC0-1.0; parts CC-BY-4.0 from GitHub's).\n\
         # Written by `cargo run --release -p gate -- advisories CHECKOUT`; don't edit.\nas-of = \"{as_of}\"\nadvisories = [\n"
    );
    for file in files.lines().filter(|file| file.ends_with(".md")) {
        let advisory = steps::output(checkout, "git", &["show", &format!("HEAD:{file}")])?;
        if let Some(row) = condensed(&advisory).ok_or_else(|| format!("{file} can't be read"))? {
            // Writing to a string can't fail.
            let _ = writeln!(text, "    {row},");
        }
    }
    text.push_str("]\n");
    std::fs::write(root.join(FILE), text).map_err(|error| format!("can't write {FILE}: {error}"))
}

/// One row of the copy; nothing inside for an advisory that was withdrawn, nothing at all for one that can't be read.
fn condensed(advisory: &str) -> Option<Option<String>> {
    let front = advisory.strip_prefix("```toml\n")?.split("\n```").next()?;
    let table: Table = front.parse().ok()?;
    let about = table.get("advisory")?;
    if about.get("withdrawn").is_some() {
        return Some(None);
    }
    let text = |key: &str| about.get(key).and_then(Value::as_str);
    let mut row = Table::new();
    row.insert("id".into(), text("id")?.into());
    row.insert("package".into(), text("package")?.into());
    row.insert("kind".into(), text("informational").unwrap_or("vulnerability").into());
    let mut unaffected = Vec::new();
    for key in ["patched", "unaffected"] {
        unaffected.extend(strings(table.get("versions").and_then(|versions| versions.get(key))).unwrap_or_default());
    }
    row.insert("unaffected".into(), Value::Array(unaffected.into_iter().map(Value::String).collect()));
    Some(Some(Value::Table(row).to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADVISORY: &str = "```toml\n[advisory]\nid = \"RUSTSEC-1\"\npackage = \"a\"\n[versions]\npatched = [\">= 1.2.3, < 1.3.0\", \">= 1.4.0\"]\nunaffected = [\"< 1.0.0\"]\n```\n\n# Title\n";

    fn list() -> List {
        let row = condensed(ADVISORY).unwrap().unwrap();
        parse(&format!("as-of = \"2026-01-01\"\nadvisories = [\n{row},\n]\n")).unwrap()
    }

    fn concerned(version: &str, excused: &[&str]) -> usize {
        let locked = BTreeMap::from([("a".to_string(), vec![version.to_string()])]);
        findings(&list(), &locked, &excused.iter().map(|id| id.to_string()).collect()).len()
    }

    #[test]
    fn ranges_decide() {
        for (version, expected) in [("0.9.0", 0), ("1.0.0", 1), ("1.2.2", 1), ("1.2.3", 0), ("1.3.0", 1), ("1.4.0", 0), ("nonsense", 1)] {
            assert_eq!(concerned(version, &[]), expected, "{version}");
        }
    }

    #[test]
    fn an_excuse_holds_and_an_idle_one_is_found() {
        assert_eq!(concerned("1.0.0", &["RUSTSEC-1"]), 0);
        assert_eq!(concerned("1.4.0", &["RUSTSEC-1"]), 1);
    }

    #[test]
    fn withdrawn_advisories_are_left_out() {
        assert!(condensed(&ADVISORY.replace("package", "withdrawn = \"2026-01-01\"\npackage")).unwrap().is_none());
        assert!(condensed("# no front matter").is_none());
    }

    #[test]
    fn the_copy_in_the_repository_can_be_read() {
        let list = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")).unwrap();
        assert!(list.entries.len() > 500, "only {} advisories", list.entries.len());
        let unreadable = list.entries.iter().flat_map(|entry| &entry.unaffected).filter(|range| VersionReq::parse(range).is_err());
        assert_eq!(unreadable.count(), 0);
    }
}
