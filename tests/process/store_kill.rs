//! Processes that are killed in the middle of a save, save at the same time, or reach a file size
//! limit.
//!
//! A child is this test binary again, running only the test `child`. It keeps saving new states and
//! prints on stdout which of them are saved.

use std::error::Error;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tower_lifecycle::store::{FileStore, StateStore};

use crate::support::store::{Folder, check_whole, made_state, mix};

/// Tell the child what to do, and where.
const ROLE: &str = "TOWER_LIFECYCLE_TEST_ROLE";
const FOLDER: &str = "TOWER_LIFECYCLE_TEST_FOLDER";
/// The maximum lifetime of a child.
const LIFE: Duration = Duration::from_secs(20);
const KILLS: u32 = 200;
/// The maximum time from a child's first output to its kill, in microseconds.
const LONGEST: u64 = 60_000;
/// The maximum length of a state.
const MOST: u64 = 3 << 20;
/// Distinguishes the states of a second writer from those of the first.
const SECOND: u64 = 1 << 32;

// ===== the tests =====

#[test]
fn a_process_killed_while_it_saves_leaves_the_last_acknowledged_state_or_a_later_one() {
    let folder = Folder::new();
    let runtime = runtime();
    let store = FileStore::new(folder.path()).unwrap();
    let mut random = RandomState::new().hash_one(0);
    let began = Instant::now();
    let (mut least, mut in_the_middle) = (0, 0);
    for kill in 0..KILLS {
        let mut child = Child::start("go on", folder.path());
        random = mix(random);
        // Some of them before their first output.
        if random % 16 != 0 {
            child.says("ready");
        }
        // In real time: it may be anywhere in a save.
        std::thread::sleep(Duration::from_micros(mix(random) % LONGEST));
        let acknowledged = child.kill().unwrap_or(least);
        assert!(acknowledged >= least);

        let loaded = runtime.block_on(store.load("queue")).unwrap();
        let found = loaded.as_deref().map_or(0, check_whole);
        let one_on = acknowledged..=acknowledged + 1;
        assert!(
            one_on.contains(&found),
            "kill {kill}: {acknowledged} was acknowledged, {found} is there"
        );
        least = found;

        let names = folder.names();
        let left = names.iter().any(|name| name == "tmp-queue");
        in_the_middle += u32::from(left);
        // A child may be killed while it checks whether the folder can be written.
        let ours = ["lock", "probe", "state-queue", "tmp-queue"];
        assert!(
            names.iter().all(|name| ours.contains(&&**name)),
            "{names:?}"
        );
    }
    println!(
        "{KILLS} kills in {:?}, {in_the_middle} of them before the rename; {least} states",
        began.elapsed()
    );
    assert!(
        in_the_middle > 0 && least > 0,
        "no kill came while it saved"
    );

    // The remains of the last one are no obstacle, and are removed.
    let store = FileStore::new(folder.path()).unwrap();
    let state = made_state(least + 1, 10).into();
    runtime.block_on(store.save("queue", state)).unwrap();
    assert_eq!(folder.names(), ["lock", "state-queue"]);
}

#[test]
fn processes_that_save_at_the_same_time_never_mix() {
    let folder = Folder::new();
    let runtime = runtime();
    let store = FileStore::new(folder.path()).unwrap();
    let mut children = ["first", "second"].map(|role| Child::start(role, folder.path()));
    for _ in 0..30 {
        for child in &mut children {
            child.says("saved");
            let loaded = runtime.block_on(store.load("queue")).unwrap();
            check_whole(&loaded.unwrap());
        }
    }
    for child in children {
        child.kill();
    }
    let loaded = runtime.block_on(store.load("queue")).unwrap();
    check_whole(&loaded.unwrap());
}

#[test]
fn a_save_that_may_not_write_on_leaves_the_earlier_state_and_nothing_else() {
    let folder = Folder::new();
    let mut child = Child::start("limited", folder.path());
    child.says("limited: all as it was");
    assert!(child.process.wait().unwrap().success());
}

/// Like two instances of a service, of which the first is killed.
#[test]
fn an_exclusive_folder_is_free_when_its_process_is_killed() {
    let folder = Folder::new();
    let mut child = Child::start("exclusive", folder.path());
    child.says("has the folder");
    let second = || FileStore::new(folder.path()).unwrap();
    assert!(second().exclusive().unwrap_err().is_in_use());

    let mut waits = Box::pin(second().exclusive_within(LIFE));
    let runtime = runtime();
    runtime.block_on(async {
        assert!(futures_util::poll!(&mut waits).is_pending());
        child.kill();
        waits.await.unwrap();
    });
}

fn runtime() -> Runtime {
    Builder::new_current_thread().build().unwrap()
}

// ===== the child, as its parent sees it =====

struct Child {
    process: std::process::Child,
    lines: BufReader<ChildStdout>,
    /// The number of the last state that it reported as saved.
    acknowledged: Option<u64>,
}

impl Child {
    fn start(role: &str, folder: &Path) -> Self {
        // For one role the shell lowers the file size limit, and then is replaced.
        let limit = match role {
            "limited" => "trap '' XFSZ; ulimit -f 512;",
            _ => "",
        };
        let mut process = Command::new("sh")
            .args(["-c", &format!(r#"{limit} exec "$0" "$@""#)])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "store_kill::child", "--ignored", "--nocapture"])
            .env(ROLE, role)
            .env(FOLDER, folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap());
        Self {
            process,
            lines,
            acknowledged: None,
        }
    }

    /// Reads one more complete line.
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.ends_with('\n').then_some(())?;
        // The test harness starts lines of its own, and does not end them.
        if let Some((_, number)) = line.trim_end().rsplit_once("saved ") {
            self.acknowledged = Some(number.parse().unwrap());
        }
        Some(line)
    }

    /// Waits for the next line with `text` in it.
    fn says(&mut self, text: &str) {
        loop {
            let line = self.line();
            let line = line.unwrap_or_else(|| panic!("the child has ended without `{text}`"));
            if line.contains(text) {
                return;
            }
        }
    }

    /// Kills it. Returns the number of the last state that it has acknowledged, if any.
    fn kill(mut self) -> Option<u64> {
        self.process.kill().unwrap();
        let status = self.process.wait().unwrap();
        assert_eq!(status.signal(), Some(9), "it has ended by itself: {status}");
        while self.line().is_some() {}
        self.acknowledged
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

// ===== the child, as it sees itself =====

#[test]
#[ignore = "started as a process of its own by the tests of this file"]
fn child() {
    let (Ok(role), Ok(folder)) = (std::env::var(ROLE), std::env::var(FOLDER)) else {
        return;
    };
    crate::end_after(LIFE);
    let store = FileStore::new(&folder).unwrap();
    match &*role {
        "go on" => runtime().block_on(async {
            let loaded = store.load("queue").await.unwrap();
            save_for_ever(&store, loaded.as_deref().map_or(0, check_whole)).await
        }),
        "first" => runtime().block_on(save_for_ever(&store, 0)),
        "second" => runtime().block_on(save_for_ever(&store, SECOND)),
        "exclusive" => {
            let _store = store.exclusive().unwrap();
            println!("has the folder");
            std::thread::sleep(2 * LIFE); // and ends before
        }
        "limited" => runtime().block_on(save_too_much(&store, folder.as_ref())),
        other => panic!("no such role: {other}"),
    }
}

/// Saves states with increasing numbers.
async fn save_for_ever(store: &FileStore, mut number: u64) {
    println!("ready");
    loop {
        number += 1;
        // As many short ones as long ones.
        let length = mix(number) % (MOST >> (number % 8 * 3));
        let state = made_state(number, usize::try_from(length).unwrap());
        store.save("queue", state.into()).await.unwrap();
        println!("saved {number}");
    }
}

/// Saves a state that exceeds the process's file size limit.
async fn save_too_much(store: &FileStore, folder: &Path) {
    store
        .save("queue", made_state(1, 1000).into())
        .await
        .unwrap();
    let too_much = made_state(2, 1 << 20).into();
    let error = store.save("queue", too_much).await.unwrap_err();
    let source = error.source().unwrap().downcast_ref::<io::Error>().unwrap();
    assert_eq!(source.kind(), io::ErrorKind::FileTooLarge);
    assert_eq!(error.path(), Some(&*folder.join("tmp-queue")));
    let loaded = store.load("queue").await.unwrap().unwrap();
    assert_eq!(check_whole(&loaded), 1);
    assert!(!folder.join("tmp-queue").exists());
    println!("limited: all as it was");
}
