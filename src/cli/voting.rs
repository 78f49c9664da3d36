//! `clusterctl voting list | replace`: the voting files, and another one in the place of one, while the cluster runs.
//!
//! ```text
//! replace: make the new file -> a running instance has a view chosen that names it instead of the old -> its path into regroup.toml
//! ```
//! Nothing is lost when this is cut off between two steps: a file that no view names is of no account, and a view's file that no path leads to counts
//! as one that doesn't answer, which `list` and `status` say. The order keeps a majority of the *old* files deciding that the new one is one of them.

use std::path::{Path, PathBuf};

use clap::{Args as ClapArgs, Subcommand};
use serde_json::json;

use super::admin::{Request, client};
use super::config::Config;
use super::layout::ClusterDir;
use super::process::{self, Found};
use super::{CommandError, on_runtime, votes};
use crate::base::options::DiskKind;
use crate::node::guard::voting;

/// What to do with voting files.
#[derive(ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Shows each voting file and its state.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Makes a new voting file and puts it in the place of one that failed, or is to move. The cluster keeps running. With several hosts, change the
    /// path in the configuration of each of the others, too.
    Replace {
        /// The file to be replaced, by its path, or its position in storage.voting from 1.
        #[arg(value_name = "OLD")]
        old: PathBuf,
        /// Where the new one is made: a path where nothing is yet, or a block device without a cluster on it.
        #[arg(value_name = "NEW")]
        new: PathBuf,
    },
}

/// Carries the command out; `list` is false when a file has failed.
///
/// # Errors
/// There is no cluster; the new file can't be made, or no instance can have it chosen.
pub fn run(dir: Option<PathBuf>, args: &Args) -> Result<bool, CommandError> {
    let cluster = ClusterDir::open(dir)?;
    let config = cluster.config(1)?;
    if !config.is_clustered() {
        return Err("this cluster has no voting files (storage.voting): it is one instance alone".into());
    }
    match &args.command {
        Command::List { json } => list(&config, *json),
        Command::Replace { old, new } => replace(&cluster, &config, old, new),
    }
}

fn list(config: &Config, as_json: bool) -> Result<bool, CommandError> {
    let votes = on_runtime(DiskKind::Threads, async |seams, disk| Ok(votes::look(&seams, &disk, config).await))?;
    let good = votes.files.iter().filter(|file| file.state == "ok").count();
    if as_json {
        let missing: Vec<String> = votes.missing().iter().map(ToString::to_string).collect();
        println!("{}", json!({ "files": votes.files, "missing": missing, "certain": votes.survey.is_certain() }));
    } else {
        for (file, number) in votes.files.iter().zip(1..) {
            let id = file.id.clone().unwrap_or_else(|| "-".into());
            let reason = file.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
            println!("{number}  {id}  {}  {}{reason}", file.state, file.path.display());
        }
        for file in votes.missing() {
            println!("-  {file}  missing: the view names it, but no path in storage.voting leads to it");
        }
        let needed = votes.files.len() / 2 + 1;
        println!("{good} of {} are well; {needed} are needed", votes.files.len());
    }
    Ok(good == votes.files.len())
}

/// The position that `old` names, from 0.
fn position(config: &Config, old: &Path) -> Result<usize, CommandError> {
    let files = &config.storage.voting;
    let number = old.to_str().and_then(|text| text.parse::<usize>().ok()).filter(|number| (1..=files.len()).contains(number));
    let canonical = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let named = number.map(|number| number - 1).or_else(|| files.iter().position(|file| file == old || canonical(file) == canonical(old)));
    named.ok_or_else(|| format!("{} is none of storage.voting: see `clusterctl voting list`", old.display()).into())
}

fn replace(cluster: &ClusterDir, config: &Config, old: &Path, new: &Path) -> Result<bool, CommandError> {
    let position = position(config, old)?;
    let new = std::path::absolute(new)?;
    if config.files().any(|file| *file == new) {
        return Err(format!("{} is a storage file of this cluster already", new.display()).into());
    }
    // Before anything is made: the edit of the configuration must be possible.
    let edited = edit(cluster, config, position, &new)?;
    on_runtime(config.options.disk, async |seams, disk| {
        let votes = votes::look(&seams, &disk, config).await;
        let shape = super::observe::read_shape_of(&disk, config).await?;
        let number = u16::try_from(position)?;
        let existed = new.exists();
        voting::create(&disk, &new, shape, number, voting::new_id(&seams), None).await?;
        let request = Request::ReplaceVoting { position: number as u8, path: new.clone() };
        let mut why = "no instance of this host runs: start one, which has it chosen (clusterctl start)".to_string();
        for id in cluster.local_instances()? {
            let home = cluster.instance(id);
            if process::find(&home)? == Found::Nobody {
                continue;
            }
            match client::ask(&seams, &home.socket(), &request, |_| {}).await {
                Ok(done) => {
                    write(cluster, &edited)?;
                    println!(
                        "{} has the place of {} since epoch {}",
                        new.display(),
                        config.storage.voting[position].display(),
                        done["epoch"]
                    );
                    println!("the configuration of this host names it now; on other hosts, change storage.voting, too");
                    return Ok(true);
                }
                Err(error) => why = format!("instance {id}: {error}"),
            }
        }
        drop(votes);
        if !existed {
            // No view names it. If one did after all, the path would be missing, and be said to be so.
            std::fs::remove_file(&new).ok();
        }
        Err(why.into())
    })
}

/// The configuration's text with another path at `position` of `storage.voting`; everything else stays as it is.
fn edit(cluster: &ClusterDir, config: &Config, position: usize, new: &Path) -> Result<String, CommandError> {
    let file = cluster.config_file();
    let text = std::fs::read_to_string(&file).map_err(|error| format!("can't read {}: {error}", file.display()))?;
    let edited = with_path(&text, position, new).ok_or_else(|| {
        format!("storage.voting in {} isn't one line of plain strings: write it like that, so that it can be edited", file.display())
    })?;
    let parsed = Config::parse_as(&edited, &file, Some(config.instance))?;
    let mut expected = config.storage.voting.clone();
    expected[position] = new.to_path_buf();
    if parsed.storage.voting != expected {
        return Err(format!("storage.voting in {} can't be edited safely: change it by hand", file.display()).into());
    }
    Ok(edited)
}

/// Replaces one path in the line `voting = ["...", ...]`.
fn with_path(text: &str, position: usize, new: &Path) -> Option<String> {
    let mut section = "";
    let mut lines: Vec<String> = Vec::new();
    let mut done = false;
    for line in text.lines() {
        if line.starts_with('[') {
            section = line.trim();
        }
        let listed = line.strip_prefix("voting = ").filter(|_| section == "[storage]");
        match listed {
            Some(listed) => {
                let mut paths: Vec<String> = toml::from_str::<toml::Table>(&format!("v = {listed}")).ok()?["v"].clone().try_into().ok()?;
                *paths.get_mut(position)? = new.to_str()?.into();
                let shown: Vec<String> = paths.iter().map(|path| toml::Value::from(path.as_str()).to_string()).collect();
                lines.push(format!("voting = [{}]", shown.join(", ")));
                done = true;
            }
            None => lines.push(line.into()),
        }
    }
    done.then(|| lines.join("\n") + "\n")
}

/// Puts the text in the configuration's place at one point.
fn write(cluster: &ClusterDir, text: &str) -> Result<(), CommandError> {
    let (file, aside) = (cluster.config_file(), cluster.config_file().with_extension("toml.edited"));
    let written = std::fs::write(&aside, text)
        .and_then(|()| std::fs::File::open(&aside)?.sync_all())
        .and_then(|()| std::fs::rename(&aside, &file))
        .and_then(|()| std::fs::File::open(cluster.path())?.sync_all());
    let failed =
        |error| format!("the view names the new file, but {} can't be changed: {error}; change storage.voting by hand", file.display());
    written.map_err(|error| failed(error).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_path_is_edited_and_nothing_else() {
        let text = "# voting = [\"no\"]\n[storage]\nredo = [\"r\"]\n# about\nvoting = [\"a\", \"b \\\"c\\\"\", \"d\"]\n[other]\nvoting = [\"x\"]\n";
        let edited = with_path(text, 1, Path::new("/new/one")).unwrap();
        assert_eq!(edited, text.replace("\"b \\\"c\\\"\"", "\"/new/one\""));
        assert_eq!(with_path(text, 3, Path::new("/new")), None);
        assert_eq!(with_path("[storage]\nvoting = [\n\"a\"]\n", 0, Path::new("/new")), None);
    }
}
