//! `[fence]` of the configuration: which methods, in which order, and which assumptions were accepted.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::lease;
use crate::base::options::OptionError;

/// A method's name in the configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MethodName {
    /// [`super::guard`].
    Guard,
    /// [`super::lease`].
    Lease,
}

/// How evicted instances are fenced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FenceOptions {
    /// Tried in this order. Default `["guard"]`.
    pub methods: Vec<MethodName>,
    /// Longest time that one attempt of method `guard` takes, in milliseconds; attempts are repeated. Default 2000; 100 to 600000.
    pub guard_attempt_ms: u64,
    /// The assumptions of method `lease` that are accepted, by name. Default none: then `lease` ends answers only.
    pub accept_lease_assumptions: Vec<String>,
}

impl Default for FenceOptions {
    fn default() -> FenceOptions {
        FenceOptions { methods: vec![MethodName::Guard], guard_attempt_ms: 2000, accept_lease_assumptions: Vec::new() }
    }
}

/// Why `[fence]` can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FenceOptionsError {
    /// No method ends writes: a zombie could write to shared storage after its log was redone (rule 2).
    #[error(
        "fence.methods has no method that ends the writes of an evicted instance: add \"guard\", or, if you take the risk that a paused or slow host \
         overwrites data after it was replaced, accept what \"lease\" assumes by name: accept_lease_assumptions = [{}]",
        lease::ASSUMPTIONS.map(|(name, _)| format!("{name:?}")).join(", ")
    )]
    NothingEndsWrites,
    /// A name that isn't one of the assumptions.
    #[error(
        "fence.accept_lease_assumptions has {found:?}, which is none of {}",
        lease::ASSUMPTIONS.map(|(name, _)| format!("{name:?}")).join(", ")
    )]
    Assumption {
        /// What stands there.
        found: String,
    },
    /// A method stands twice.
    #[error("fence.methods names a method twice")]
    Twice,
    /// A number out of range.
    #[error(transparent)]
    Option(#[from] OptionError),
}

impl FenceOptions {
    /// Checks ranges, and that the methods together end writes and answers.
    ///
    /// # Errors
    /// [`FenceOptionsError`].
    pub fn validate(&self) -> Result<(), FenceOptionsError> {
        if !(100..=600_000).contains(&self.guard_attempt_ms) {
            let (name, found, allowed) = ("guard_attempt_ms", self.guard_attempt_ms, "100 to 600000");
            return Err(OptionError { name, found, allowed }.into());
        }
        for found in &self.accept_lease_assumptions {
            if !lease::ASSUMPTIONS.iter().any(|(name, _)| name == found) {
                return Err(FenceOptionsError::Assumption { found: found.clone() });
            }
        }
        if (1..self.methods.len()).any(|at| self.methods[..at].contains(&self.methods[at])) {
            return Err(FenceOptionsError::Twice);
        }
        let ends_writes = |method: &MethodName| match method {
            MethodName::Guard => true,
            MethodName::Lease => self.lease_is_accepted(),
        };
        if self.methods.iter().any(ends_writes) { Ok(()) } else { Err(FenceOptionsError::NothingEndsWrites) }
    }

    /// Whether every assumption of `lease` is accepted by name, so that it counts as ending writes.
    pub fn lease_is_accepted(&self) -> bool {
        lease::ASSUMPTIONS.iter().all(|(name, _)| self.accept_lease_assumptions.iter().any(|accepted| accepted == name))
    }

    /// [`FenceOptions::guard_attempt_ms`] as a duration.
    pub fn guard_attempt(&self) -> Duration {
        Duration::from_millis(self.guard_attempt_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<FenceOptions, FenceOptionsError> {
        let options: FenceOptions = toml::from_str(text).unwrap();
        options.validate().map(|()| options)
    }

    #[test]
    fn lease_alone_is_refused_unless_every_assumption_is_accepted_by_name() {
        assert_eq!(parsed(""), Ok(FenceOptions::default()));
        assert_eq!(parsed("methods = []"), Err(FenceOptionsError::NothingEndsWrites));
        let alone = parsed("methods = [\"lease\"]").unwrap_err();
        for (name, _) in lease::ASSUMPTIONS {
            assert!(alone.to_string().contains(name), "{alone}");
        }
        let names: Vec<String> = lease::ASSUMPTIONS.iter().map(|(name, _)| format!("{name:?}")).collect();
        for left_out in 0..names.len() {
            let some: Vec<&str> = names.iter().enumerate().filter(|(at, _)| *at != left_out).map(|(_, name)| name.as_str()).collect();
            let text = format!("methods = [\"lease\"]\naccept_lease_assumptions = [{}]", some.join(", "));
            assert_eq!(parsed(&text), Err(FenceOptionsError::NothingEndsWrites), "{text}");
        }
        let text = format!("methods = [\"lease\"]\naccept_lease_assumptions = [{}]", names.join(", "));
        assert!(parsed(&text).unwrap().lease_is_accepted());
        assert!(!parsed("methods = [\"guard\", \"lease\"]").unwrap().lease_is_accepted());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let found = parsed("accept_lease_assumptions = [\"luck\"]").unwrap_err();
        assert_eq!(found, FenceOptionsError::Assumption { found: "luck".into() });
        assert_eq!(parsed("methods = [\"guard\", \"guard\"]"), Err(FenceOptionsError::Twice));
        assert!(parsed("guard_attempt_ms = 99").unwrap_err().to_string().contains("100 to 600000"));
        assert!(toml::from_str::<FenceOptions>("methods = [\"hope\"]").is_err());
    }
}
