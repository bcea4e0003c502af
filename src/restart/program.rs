//! Which program a hand-over starts.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, path};

use super::protocol::{LISTEN_FDNAMES, LISTEN_FDS, LISTEN_FDS_FIRST_FD, LISTEN_PID};

/// Linux adds this to the path of a program whose file was replaced.
const DELETED: &[u8] = b" (deleted)";

/// The program to start, with its arguments and changes to its environment.
#[derive(Debug, Clone)]
pub(super) struct Program {
    pub(super) path: PathBuf,
    pub(super) args: Vec<OsString>,
    /// `None` removes a variable.
    pub(super) variables: Vec<(OsString, Option<OsString>)>,
}

impl Program {
    /// Returns the program of this process, at the path that it was started by, with its arguments.
    pub(super) fn current() -> io::Result<Self> {
        let mut args = env::args_os();
        let typed = args.next().map(PathBuf::from);
        Ok(Self {
            path: path_of(env::current_exe()?, typed)?,
            args: args.collect(),
            variables: Vec::new(),
        })
    }

    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.args(&self.args);
        for (name, value) in &self.variables {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        // The variables of our own start are not for the new process. The watchdog's says that only this
        // process is watched.
        for name in [
            LISTEN_FDS,
            LISTEN_FDNAMES,
            LISTEN_PID,
            LISTEN_FDS_FIRST_FD,
            "WATCHDOG_PID",
        ] {
            command.env_remove(name);
        }
        command
    }
}

/// Returns the path that leads to the next version of the program.
///
/// The system knows the file without symbolic links. A deploy may change a link, so the path as it was typed is
/// better, if it leads to the same file now. A name without a slash was found in the `PATH`.
fn path_of(file: PathBuf, typed: Option<PathBuf>) -> io::Result<PathBuf> {
    let file = without_deleted(file);
    let Some(typed) = typed.filter(|typed| typed.as_os_str().as_bytes().contains(&b'/')) else {
        return Ok(file);
    };
    // The working directory may change later.
    let typed = path::absolute(typed)?;
    let is_same = fs::canonicalize(&typed).is_ok_and(|found| found == file);
    Ok(if is_same { typed } else { file })
}

fn without_deleted(file: PathBuf) -> PathBuf {
    let name = file.as_os_str().as_bytes();
    match name.strip_suffix(DELETED) {
        // Unless that is its name.
        Some(name) if !file.exists() => Path::new(&OsString::from_vec(name.to_vec())).to_owned(),
        _ => file,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn folder(name: &str) -> PathBuf {
        let name = format!("tower-lifecycle-{}-{name}", std::process::id());
        let folder = env::temp_dir().join(name);
        fs::create_dir_all(&folder).expect("a folder");
        fs::canonicalize(folder).expect("a folder")
    }

    #[test]
    fn the_mark_of_a_replaced_file_is_removed_unless_it_is_the_name() {
        let folder = folder("deleted");
        let marked = folder.join("app (deleted)");
        assert_eq!(without_deleted(marked.clone()), folder.join("app"));
        fs::write(&marked, "").expect("a file");
        assert_eq!(without_deleted(marked.clone()), marked);
        assert_eq!(without_deleted(folder.join("app")), folder.join("app"));
        fs::remove_dir_all(folder).expect("removed");
    }

    #[test]
    fn a_link_is_followed_by_the_next_version_only_if_it_led_to_this_one() {
        let folder = folder("link");
        let (one, two) = (folder.join("one"), folder.join("two"));
        for file in [&one, &two] {
            fs::write(file, "").expect("a file");
        }
        let link = folder.join("current");
        symlink(&one, &link).expect("a link");
        let path = |file: &PathBuf, typed: &Path| {
            path_of(file.clone(), Some(typed.to_owned())).expect("a path")
        };
        assert_eq!(path(&one, &link), link);
        assert_eq!(path(&one, &two), one, "a lie");
        assert_eq!(path(&one, Path::new("one")), one, "found in the PATH");
        assert_eq!(path(&one, &folder.join("none")), one);
        // Replaced before it was asked for.
        assert_eq!(path(&folder.join("one (deleted)"), &link), link);
        fs::remove_dir_all(folder).expect("removed");
    }
}
