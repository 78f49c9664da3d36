//! The list of mutations, and whether it still fits the source.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// Rules that there are in the safety rules.
const RULES: std::ops::RangeInclusive<u8> = 1..=21;

/// A change of the product code that breaks a rule.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mutation {
    /// What it is called.
    pub(crate) name: String,
    /// The safety rules that it breaks.
    pub(crate) rules: Vec<u8>,
    /// The file that it changes, from the root.
    pub(crate) file: String,
    /// Text that occurs exactly once there.
    pub(crate) find: String,
    /// What comes in its place.
    pub(crate) replace: String,
    /// What goes wrong with it.
    pub(crate) wrong: String,
    /// Arguments for `cargo test --release` that run the tests that notice; behind ` -- ` those of the test program.
    pub(crate) test: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    mutation: Vec<Mutation>,
}

/// Reads the list.
///
/// # Errors
/// Where it isn't one.
pub(crate) fn parse(text: &str) -> Result<Vec<Mutation>, String> {
    toml::from_str::<File>(text).map(|file| file.mutation).map_err(|error| error.to_string())
}

/// Holds the list against the source, which `read` gives by path.
///
/// # Errors
/// Everything that is wrong, one to a line.
pub(crate) fn check(mutations: &[Mutation], read: impl Fn(&str) -> Result<String, String>) -> Result<(), String> {
    let mut findings = Vec::new();
    let mut names = BTreeSet::new();
    for mutation in mutations {
        let mut say = |what: String| findings.push(format!("{}: {what}", mutation.name));
        if !names.insert(&mutation.name) {
            say("the name is used twice".into());
        }
        if mutation.rules.is_empty() || mutation.rules.iter().any(|rule| !RULES.contains(rule)) {
            say(format!("rules are {:?}; at least one of {} to {}", mutation.rules, RULES.start(), RULES.end()));
        }
        if mutation.wrong.trim().is_empty() || mutation.test.trim().is_empty() {
            say("says not what goes wrong, or not which tests notice".into());
        }
        if mutation.find == mutation.replace || mutation.find.trim().is_empty() {
            say("changes nothing".into());
        }
        match read(&mutation.file).map(|text| text.matches(&mutation.find).count()) {
            Ok(1) => {}
            Ok(count) => {
                say(format!(
                    "stale: its text occurs {count} times in {}, but must occur once; fit it to the source as it is now",
                    mutation.file
                ));
            }
            Err(error) => say(format!("stale: {}: {error}", mutation.file)),
        }
    }
    if findings.is_empty() { Ok(()) } else { Err(findings.join("\n")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Mutation {
        let text =
            "[[mutation]]\nname = 'one'\nrules = [7]\nfile = 'a.rs'\nfind = 'force();'\nreplace = ''\nwrong = 'Lost.'\ntest = '--lib'\n";
        parse(text).unwrap().remove(0)
    }

    fn findings(mutations: &[Mutation], source: &str) -> String {
        check(mutations, |_| Ok(source.to_string())).err().unwrap_or_default()
    }

    #[test]
    fn a_text_that_occurs_once_is_accepted_and_any_other_is_stale() {
        assert_eq!(findings(&[sample()], "force();"), "");
        assert!(findings(&[sample()], "").contains("one: stale: its text occurs 0 times in a.rs"));
        assert!(findings(&[sample()], "force(); force();").contains("occurs 2 times"));
        assert!(check(&[sample()], |_| Err("no such file".into())).unwrap_err().contains("stale: a.rs: no such file"));
    }

    #[test]
    fn what_says_too_little_is_refused() {
        assert!(findings(&[sample(), sample()], "force();").contains("used twice"));
        assert!(findings(&[Mutation { rules: vec![], ..sample() }], "force();").contains("rules are []"));
        assert!(findings(&[Mutation { rules: vec![22], ..sample() }], "force();").contains("rules are [22]"));
        assert!(findings(&[Mutation { wrong: " ".into(), ..sample() }], "force();").contains("what goes wrong"));
        assert!(findings(&[Mutation { replace: "force();".into(), ..sample() }], "force();").contains("changes nothing"));
        assert!(parse("[[mutation]]\nname = 'x'\n").is_err());
    }
}
