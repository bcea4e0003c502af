//! The folder of a `FileStore`: its lock, its write check, and its file names.
//!
//! No test here starts a child process: until `exec`, it would hold copies of the locks.

use std::collections::HashSet;
use std::error::Error;
use std::fs::{self, File};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tokio::runtime::Builder;
use tower_lifecycle::store::{FileStore, StateStore};

use crate::support::store::Folder;

/// The time limit of a step.
const TIMEOUT: Duration = Duration::from_secs(20);

// ===== a separate thread =====

/// Like a hanging health check, which leaks one thread for each probe.
#[test]
fn a_store_needs_no_thread_of_the_runtimes_blocking_pool() {
    let folder = Folder::new();
    let store = FileStore::new(folder.path()).unwrap();
    let runtime = Builder::new_current_thread()
        .enable_time()
        .max_blocking_threads(1)
        .build()
        .unwrap();
    let (release, released) = mpsc::channel::<()>();
    runtime.block_on(async {
        let hung = tokio::task::spawn_blocking(move || released.recv());
        let work = async {
            store.save("queue", "job 7".into()).await.unwrap();
            store.load("queue").await.unwrap().unwrap()
        };
        let loaded = tokio::time::timeout(TIMEOUT, work).await;
        drop(release);
        assert!(hung.await.unwrap().is_err(), "it hung until now");
        assert_eq!(loaded.expect("neither waits for the pool"), "job 7");
    });
}

// ===== write checks =====

/// Even root cannot create a file in `/proc`.
#[cfg(target_os = "linux")]
#[test]
fn a_folder_that_cannot_be_written_is_found_out_at_the_start() {
    let folder = std::path::Path::new("/proc/self/task");
    let error = FileStore::new(folder).unwrap_err();
    assert_eq!(error.path(), Some(folder));
    assert!(error.source().unwrap().is::<std::io::Error>());
    assert_eq!(
        error.to_string(),
        "cannot write to the folder \"/proc/self/task\": give the store a folder that this process \
         may write to"
    );
}

/// A save would fail for ever.
#[test]
fn a_lock_that_cannot_be_taken_is_found_out_at_the_start() {
    for name in ["lock", "owner"] {
        let folder = Folder::new();
        let in_the_way = folder.path().join(name);
        fs::create_dir(&in_the_way).unwrap();
        let error = FileStore::new(folder.path()).unwrap_err();
        assert!(error.is_foreign(), "{error}");
        assert_eq!(error.path(), Some(&*in_the_way));
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_folder_is_made_in_one_that_cannot_be_read() {
    use std::os::unix::fs::PermissionsExt;
    let parent = Folder::new();
    let set = |mode| fs::set_permissions(parent.path(), fs::Permissions::from_mode(mode));
    set(0o300).unwrap();
    if fs::read_dir(parent.path()).is_ok() {
        println!("skipped: root may do everything");
        return;
    }
    let store = FileStore::new(parent.path().join("a/b"));
    set(0o700).unwrap();
    store.unwrap().save("queue", "job 7".into()).await.unwrap();
}

/// A save has to sync it.
#[cfg(unix)]
#[test]
fn a_folder_that_cannot_be_read_is_found_out_at_the_start() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    let set = |mode| fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode));
    set(0o300).unwrap();
    let is_root = fs::read_dir(folder.path()).is_ok();
    let store = FileStore::new(folder.path());
    set(0o700).unwrap();
    assert_eq!(store.is_ok(), is_root, "root may do everything");
}

#[test]
fn finding_that_out_leaves_only_the_lock_and_many_can_do_so_at_once() {
    let folder = Folder::new();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..20 {
                    FileStore::new(folder.path()).unwrap();
                }
            });
        }
    });
    assert_eq!(folder.names(), ["lock"]);
}

// ===== one store at a time =====

fn open(folder: &Folder) -> FileStore {
    FileStore::new(folder.path()).unwrap()
}

#[test]
fn a_second_exclusive_store_gets_an_error_that_names_the_folder() {
    let folder = Folder::new();
    let first = open(&folder).exclusive().unwrap();
    let clone = first.clone();
    drop(first);

    let error = open(&folder).exclusive().unwrap_err();
    assert!(error.is_in_use() && !error.is_foreign() && error.source().is_none());
    assert_eq!(error.path(), Some(folder.path()));
    assert_eq!(
        error.to_string(),
        format!(
            "the folder {:?} is in use by another store, which has it for itself: end the other \
             instance, wait longer with `exclusive_within`, or use another folder",
            folder.path()
        )
    );
    let again = clone.clone().exclusive().unwrap();
    drop((clone, again));
    open(&folder).exclusive().unwrap();
}

#[tokio::test]
async fn nobody_else_saves_to_an_exclusive_folder_and_everybody_loads() {
    let folder = Folder::new();
    let plain = open(&folder);
    plain.save("queue", "job 1".into()).await.unwrap();
    let owner = open(&folder).exclusive().unwrap();
    owner.save("queue", "job 2".into()).await.unwrap();
    owner.clone().save("queue", "job 3".into()).await.unwrap();

    let error = plain.save("queue", "job 4".into()).await.unwrap_err();
    assert!(error.is_in_use(), "{error}");
    assert_eq!(plain.load("queue").await.unwrap().unwrap(), "job 3");
    assert_eq!(folder.names(), ["lock", "owner", "state-queue"]);

    drop(owner);
    plain.save("queue", "job 4".into()).await.unwrap();
    assert_eq!(plain.load("queue").await.unwrap().unwrap(), "job 4");
}

/// In turn with saves, each of which locks the folder for its own time.
#[tokio::test]
async fn a_folder_is_free_as_soon_as_its_last_store_is_gone() {
    let folder = Folder::new();
    for number in 0..100 {
        let store = open(&folder).exclusive().unwrap();
        let state = number.to_string();
        store.save("queue", state.clone().into()).await.unwrap();
        assert_eq!(store.load("queue").await.unwrap().unwrap(), state);
    }
}

#[tokio::test]
async fn a_successor_waits_until_its_predecessor_has_gone() {
    let folder = Folder::new();
    let predecessor = open(&folder).exclusive().unwrap();
    let mut successor = Box::pin(open(&folder).exclusive_within(TIMEOUT));
    // Long enough to be refused many times.
    for _ in 0..20 {
        assert!(futures_util::poll!(&mut successor).is_pending());
        predecessor.save("queue", "jobs".into()).await.unwrap();
    }
    drop(predecessor);
    let successor = successor.await.unwrap();
    assert_eq!(successor.load("queue").await.unwrap().unwrap(), "jobs");
    assert!(open(&folder).exclusive().unwrap_err().is_in_use());
}

#[tokio::test]
async fn a_successor_waits_no_longer_than_it_was_told_to() {
    let folder = Folder::new();
    let _predecessor = open(&folder).exclusive().unwrap();
    for limit in [Duration::ZERO, Duration::from_millis(50)] {
        let began = Instant::now();
        let successor = open(&folder).exclusive_within(limit);
        let error = tokio::time::timeout(TIMEOUT, successor).await.unwrap();
        let error = error.unwrap_err();
        assert!(error.is_in_use());
        assert!(began.elapsed() >= limit);
        let waited = error.to_string().contains("and was for 50ms");
        assert_eq!(waited, !limit.is_zero(), "{error}");
    }
}

#[tokio::test]
async fn a_successor_that_is_dropped_takes_nothing() {
    let folder = Folder::new();
    let predecessor = open(&folder).exclusive().unwrap();
    let mut successor = Box::pin(open(&folder).exclusive_within(Duration::MAX));
    assert!(futures_util::poll!(&mut successor).is_pending());
    drop(successor);
    drop(predecessor);
    // Its thread may be at its last attempt.
    open(&folder).exclusive_within(TIMEOUT).await.unwrap();
}

/// The lock of another store's save is not the lock of an exclusive store.
#[tokio::test]
async fn a_save_of_another_is_waited_for_and_then_no_more_are_made() {
    let folder = Folder::new();
    let lock = File::create(folder.path().join("lock")).unwrap();
    fs4::FileExt::lock(&lock).unwrap();
    let error = open(&folder).exclusive().unwrap_err();
    assert!(error.is_in_use());

    let mut owner = Box::pin(open(&folder).exclusive_within(TIMEOUT));
    assert!(futures_util::poll!(&mut owner).is_pending());
    drop(lock);
    let _owner = owner.await.unwrap();
    let error = open(&folder).save("queue", "x".into()).await.unwrap_err();
    assert!(error.is_in_use(), "{error}");
}

// ===== names =====

/// The name in a file system that ignores case and trailing dots.
fn folded(name: &str) -> String {
    name.trim_end_matches(['.', ' ']).to_lowercase()
}

#[tokio::test]
async fn keys_that_differ_in_case_or_trailing_dots_have_files_of_their_own_everywhere() {
    let keys = ["jobs", "Jobs", "JOBS", "jobS", "jobs.", "jobs..", "Jobs."];
    let folder = Folder::new();
    let store = FileStore::new(folder.path()).unwrap();
    for key in keys {
        store.save(key, key.into()).await.unwrap();
    }
    for key in keys {
        assert_eq!(store.load(key).await.unwrap().unwrap(), key);
    }
    let names = folder.names();
    let folded: HashSet<_> = names.iter().map(|name| folded(name)).collect();
    assert_eq!(folded.len(), keys.len() + 1, "{names:?}");
}
