//! Rules that can be read off the text of a file: what has no lint of its own.
//!
//! Patterns are put together from parts, so that this file doesn't find itself.

use std::path::Path;

use crate::steps;

/// Longest Rust file, in lines; past it, look for the second noun.
const LINES_MAX: usize = 800;

/// A pattern that may not occur, where, and why.
struct Rule {
    pattern: String,
    applies: fn(&str) -> bool,
    reason: &'static str,
}

fn everywhere(_path: &str) -> bool {
    true
}

fn rust(path: &str) -> bool {
    path.ends_with(".rs")
}

fn rules() -> Vec<Rule> {
    let mut rules = Vec::new();
    let mut forbid = |parts: [&str; 2], applies: fn(&str) -> bool, reason: &'static str| {
        rules.push(Rule { pattern: parts.concat(), applies, reason });
    };
    for directory in ["work/", "root/", "home/"] {
        forbid(["/", directory], everywhere, "an absolute path of one machine");
    }
    let host = "a registry's host name: machines choose their registry themselves";
    for parts in [["index.", "crates.io"], ["static.", "crates.io"], ["pypi", ".org"], ["pythonhosted", ".org"], ["registry.npm", "js.org"]]
    {
        forbid(parts, everywhere, host);
    }
    for parts in [["--index", "-url"], ["replace", "-with"], ["proxy.", "golang"], ["deb.", "debian.org"]] {
        forbid(parts, everywhere, host);
    }
    forbid(["to", "do!("], rust, "unfinished code");
    forbid(["unimpl", "emented!("], rust, "unfinished code");
    forbid(["TO", "DO"], everywhere, "unfinished work belongs into an issue");
    forbid(["FIX", "ME"], everywhere, "unfinished work belongs into an issue");
    forbid(["#[igno", "re"], rust, "a test that doesn't run: make it run, or give it a command of its own");
    forbid(["<<<<", "<<< "], everywhere, "a merge that wasn't finished");
    rules
}

/// Checks every file that git tracks or would track.
///
/// # Errors
/// All findings, one to a line: `path:line: reason`.
pub(crate) fn check(root: &Path) -> Result<String, String> {
    let listed = steps::output(root, "git", &["ls-files", "--cached", "--others", "--exclude-standard"])?;
    let rules = rules();
    let mut findings = Vec::new();
    let mut files = 0;
    for path in listed.lines() {
        // Bytes that aren't text (golden files), and files deleted but not yet committed, have nothing to read.
        let Ok(text) = std::fs::read_to_string(root.join(path)) else { continue };
        files += 1;
        findings.extend(findings_in(path, &text, &rules));
        if path.ends_with(".md") {
            findings.extend(dangling(root, path, &text));
        }
    }
    if findings.is_empty() { Ok(format!("{files} files")) } else { Err(findings.join("\n")) }
}

fn findings_in(path: &str, text: &str, rules: &[Rule]) -> Vec<String> {
    let mut findings = Vec::new();
    for rule in rules.iter().filter(|rule| (rule.applies)(path)) {
        for (number, line) in text.lines().enumerate().filter(|(_, line)| line.contains(&rule.pattern)) {
            findings.push(format!("{path}:{}: {} ({})", number + 1, rule.reason, line.trim()));
        }
    }
    if !rust(path) {
        return findings;
    }
    let lines = text.lines().count();
    if lines > LINES_MAX {
        findings.push(format!("{path}:{lines}: longer than {LINES_MAX} lines: look for the second noun"));
    }
    if path.starts_with("src/") && !path.starts_with("src/bin/") && !text.starts_with("//!") {
        findings.push(format!("{path}:1: begins without module documentation (purpose, callers, invariants, what it doesn't do)"));
    }
    findings.extend(unbiased_selects(path, text));
    findings
}

/// Links of a document, and source files in backticks, that lead nowhere: a map that has gone stale.
fn dangling(root: &Path, path: &str, text: &str) -> Vec<String> {
    let folder = root.join(path).parent().map(Path::to_path_buf).unwrap_or_default();
    let mut findings = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let links = line.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
        let links = links.filter(|link| !link.is_empty() && !link.contains("://")).map(|link| (link, folder.join(link)));
        let files = line.split('`').skip(1).step_by(2).filter(|word| word.starts_with("src/") && !word.contains(['*', ' ', '<']));
        for (name, target) in links.chain(files.map(|file| (file, root.join(file)))) {
            if !target.exists() {
                findings.push(format!("{path}:{}: {name} doesn't exist", number + 1));
            }
        }
    }
    findings
}

/// Without `biased;` the branch that wins is random, and a simulated run can't be replayed.
fn unbiased_selects(path: &str, text: &str) -> Vec<String> {
    let opening = ["select!", " {"].concat();
    let unbiased = |at: &usize| !text[at + opening.len()..].trim_start().starts_with("biased;");
    text.match_indices(&opening)
        .map(|(at, _)| at)
        .filter(unbiased)
        .map(|at| format!("{path}:{}: a select without `biased;` can't be replayed", text[..at].lines().count().max(1)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        findings_in(path, text, &rules())
    }

    #[test]
    fn clean_text_passes() {
        assert!(found("src/a.rs", "//! A module.\nfn a() {}\n").is_empty());
        assert!(found("docs/a.md", "see src/a.rs, and the file /dev/nvme0n1\n").is_empty());
    }

    #[test]
    fn machine_paths_hosts_and_unfinished_code_are_found() {
        let path = ["see /", "home/someone/x"].concat();
        assert_eq!(found("docs/a.md", &path).len(), 1);
        assert_eq!(found("a.toml", &["url = index.", "crates.io"].concat()).len(), 1);
        assert_eq!(found("src/a.rs", &["//! A.\nfn a() { to", "do!() }"].concat()).len(), 1);
        assert_eq!(found("src/a.rs", &["//! A.\n#[igno", "re = \"slow\"]\nfn a() {}"].concat()).len(), 1);
    }

    #[test]
    fn long_and_undocumented_files_are_found() {
        let long = format!("//! A.\n{}", "fn a() {}\n".repeat(LINES_MAX));
        assert_eq!(found("src/a.rs", &long).len(), 1);
        assert!(found("docs/a.md", &long).is_empty());
        assert_eq!(found("src/a.rs", "fn a() {}\n").len(), 1);
        assert!(found("src/bin/a.rs", "fn main() {}\n").is_empty());
    }

    #[test]
    fn dangling_links_and_files_are_found() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let text = "see [a](README.md#part), [b](src/main.rs), [c](scheme://host/x), `src/text.rs`,\n`src/absent.rs` and [d](absent.md)\n";
        assert_eq!(dangling(root, "x.md", text).len(), 3, "{:?}", dangling(root, "x.md", text));
        assert_eq!(dangling(root, "x.md", "`src/absent.rs`"), ["x.md:1: src/absent.rs doesn't exist"]);
    }

    #[test]
    fn an_unbiased_select_is_found() {
        let select = |first: &str| ["//! A.\nfn a() {\n  tokio::select!", " {\n", first, "    x = y => {} } }"].concat();
        assert!(found("src/a.rs", &select("    biased;\n")).is_empty());
        let findings = found("src/a.rs", &select(""));
        assert_eq!(findings.len(), 1);
        assert!(findings[0].starts_with("src/a.rs:3:"), "{findings:?}");
    }
}
