//! A copy of the working tree in which mutations are applied and taken back.
//!
//! It lies in `target/mutate/tree`, always in the same place, so that what the compiler kept of earlier runs is of use; build products lie
//! beside it. Files get the present as their time of change, or cargo would take an earlier run's mutated objects for theirs. Removed when
//! dropped; one that an interrupted run left is replaced. A lock keeps two runs apart.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::list::Mutation;

/// A copy of the working tree.
pub(crate) struct Tree {
    home: PathBuf,
    _lock: fs::File,
}

fn told<T>(outcome: std::io::Result<T>, path: &Path) -> Result<T, String> {
    outcome.map_err(|error| format!("{}: {error}", path.display()))
}

impl Tree {
    /// Copies what git tracks or would track of `root`, as it is now.
    ///
    /// # Errors
    /// Another run is under way, or what can't be read or written.
    pub(crate) fn copy(root: &Path) -> Result<Tree, String> {
        let home = root.join("target/mutate");
        told(fs::create_dir_all(&home), &home)?;
        let lock = told(fs::File::create(home.join("lock")), &home)?;
        lock.try_lock().map_err(|error| format!("another run is under way in {}: {error}", home.display()))?;
        let tree = Tree { home, _lock: lock };
        let path = tree.path();
        if path.exists() {
            told(fs::remove_dir_all(&path), &path)?;
        }
        let listed = Command::new("git").args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(root).output();
        let listed = told(listed, root)?;
        if !listed.status.success() {
            return Err(format!("git ls-files: {}", String::from_utf8_lossy(&listed.stderr).trim()));
        }
        let names = String::from_utf8(listed.stdout).map_err(|error| format!("git ls-files: {error}"))?;
        for name in names.split('\0').filter(|name| !name.is_empty()) {
            let (from, to) = (root.join(name), path.join(name));
            // Deleted, but not yet for git.
            if !from.is_file() {
                continue;
            }
            let parent = to.parent().expect("a file in the tree has a folder");
            told(fs::create_dir_all(parent), parent)?;
            told(fs::copy(&from, &to), &from)?;
        }
        Ok(tree)
    }

    /// Where the copy is.
    pub(crate) fn path(&self) -> PathBuf {
        self.home.join("tree")
    }

    /// Where its build products go.
    pub(crate) fn target(&self) -> PathBuf {
        self.home.join("target")
    }

    fn replace(&self, mutation: &Mutation, find: &str, replace: &str) -> Result<(), String> {
        let path = self.path().join(&mutation.file);
        let text = told(fs::read_to_string(&path), &path)?;
        told(fs::write(&path, text.replacen(find, replace, 1)), &path)
    }

    /// Applies `mutation`.
    ///
    /// # Errors
    /// What can't be read or written, or text that isn't there exactly once.
    pub(crate) fn apply(&self, mutation: &Mutation) -> Result<(), String> {
        let path = self.path().join(&mutation.file);
        let count = told(fs::read_to_string(&path), &path)?.matches(&mutation.find).count();
        if count != 1 {
            return Err(format!("{}: stale: its text occurs {count} times in the copy of {}", mutation.name, mutation.file));
        }
        told(fs::copy(&path, self.kept()), &path)?;
        self.replace(mutation, &mutation.find, &mutation.replace)
    }

    /// The unmutated file while a mutation is applied.
    fn kept(&self) -> PathBuf {
        self.home.join("unmutated")
    }

    /// Takes `mutation` back.
    ///
    /// # Errors
    /// What can't be read or written.
    pub(crate) fn restore(&self, mutation: &Mutation) -> Result<(), String> {
        let path = self.path().join(&mutation.file);
        told(fs::copy(self.kept(), &path), &path)?;
        told(fs::remove_file(self.kept()), &path)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let path = self.path();
        if let Err(error) = fs::remove_dir_all(&path) {
            eprintln!("mutate: {} is left behind: {error}", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mutation_is_applied_to_the_copy_only_and_taken_back() {
        let root = tempfile::tempdir().unwrap();
        let run = |arguments: &[&str]| assert!(Command::new("git").args(arguments).current_dir(root.path()).status().unwrap().success());
        run(&["init", "-q"]);
        fs::create_dir(root.path().join("src")).unwrap();
        fs::write(root.path().join("src/new.rs"), "a(); b();").unwrap();
        fs::write(root.path().join(".gitignore"), "/target\n").unwrap();
        let mutation = Mutation {
            name: "no-b".into(),
            rules: vec![7],
            file: "src/new.rs".into(),
            find: "b();".into(),
            replace: "c();".into(),
            wrong: String::new(),
            test: String::new(),
        };
        let path = {
            let tree = Tree::copy(root.path()).unwrap();
            assert!(Tree::copy(root.path()).is_err(), "two runs at once");
            let copy = tree.path().join("src/new.rs");
            tree.apply(&mutation).unwrap();
            assert_eq!(fs::read_to_string(&copy).unwrap(), "a(); c();");
            assert!(tree.apply(&mutation).unwrap_err().contains("stale"));
            tree.restore(&mutation).unwrap();
            assert_eq!(fs::read_to_string(&copy).unwrap(), "a(); b();");
            tree.path()
        };
        assert_eq!(fs::read_to_string(root.path().join("src/new.rs")).unwrap(), "a(); b();");
        assert!(!path.exists());
    }
}
