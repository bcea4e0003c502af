//! State stores: their guarantees, on a real disk.
//!
//! No test here starts a child process: until `exec`, it would hold copies of the locks.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Debug;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::runtime::Builder;
use tokio::sync::RwLock;
use tokio::task::JoinSet;
use tower_lifecycle::BoxError;
use tower_lifecycle::store::{FileStore, MemoryStore, StateStore, StoreError};

use crate::support::store::{Folder, check_whole, made_state};

/// The time limit of a step.
const TIMEOUT: Duration = Duration::from_secs(20);

// ===== all stores =====

/// A user's store, with plain `async fn`s.
#[derive(Default)]
struct Table(RwLock<BTreeMap<String, Bytes>>);

impl StateStore for Table {
    type Error = &'static str;

    async fn save(&self, key: &str, state: Bytes) -> Result<(), &'static str> {
        self.0.write().await.insert(key.to_owned(), state);
        Ok(())
    }

    async fn load(&self, key: &str) -> Result<Option<Bytes>, &'static str> {
        Ok(self.0.read().await.get(key).cloned())
    }
}

/// As the crate itself uses a store: generic, in a task, with a boxed error.
async fn works(store: impl StateStore) {
    let work = async move {
        let load = async |key: &'static str| store.load(key).await.map_err(Into::into);
        assert_eq!(load("queue").await?, None);
        for state in ["first", "the second, longer", "third", ""] {
            store
                .save("queue", state.into())
                .await
                .map_err(Into::into)?;
            assert_eq!(load("queue").await?.unwrap(), state);
        }
        store
            .save("Queue.2", "2".into())
            .await
            .map_err(Into::into)?;
        assert_eq!(load("queue").await?.unwrap(), "");
        assert_eq!(load("Queue.2").await?.unwrap(), "2");
        assert_eq!(load("sessions").await?, None);
        Ok::<_, BoxError>(())
    };
    tokio::spawn(work).await.unwrap().unwrap();
}

#[tokio::test]
async fn every_store_gives_back_what_was_saved_last_or_none() {
    works(MemoryStore::new()).await;
    works(Table::default()).await;
    works(Arc::new(Arc::new(Table::default()))).await;
    let folder = Folder::new();
    works(FileStore::new(folder.path()).unwrap()).await;
    let folder = Folder::new();
    works(Arc::new(FileStore::new(folder.path()).unwrap())).await;
}

#[tokio::test]
async fn clones_of_a_memory_store_share_and_others_do_not() {
    let store = MemoryStore::new();
    store.clone().save("queue", "secret".into()).await.unwrap();
    assert_eq!(store.load("queue").await.unwrap().unwrap(), "secret");
    assert_eq!(MemoryStore::new().load("queue").await.unwrap(), None);

    let debug = format!("{store:?}");
    assert!(debug.contains("queue") && !debug.contains("secret"));
}

#[tokio::test]
async fn a_file_store_made_anew_has_what_was_saved_before() {
    let folder = Folder::new();
    let saved = FileStore::new(folder.path()).unwrap();
    saved.save("queue", "job 7".into()).await.unwrap();
    drop(saved);
    let loaded = FileStore::new(folder.path()).unwrap();
    assert_eq!(loaded.load("queue").await.unwrap().unwrap(), "job 7");
    assert_eq!(folder.names(), ["lock", "state-queue"]);
}

#[tokio::test]
async fn a_state_may_be_of_any_length() {
    let folder = Folder::new();
    let store = FileStore::new(folder.path()).unwrap();
    for length in [0, 1, 28, 29, 4096, 16 << 20] {
        let state = Bytes::from(made_state(length as u64, length));
        store.save("big", state.clone()).await.unwrap();
        assert!(store.load("big").await.unwrap().unwrap() == state);
    }
}

#[test]
fn the_types_are_send_sync_and_clone() {
    fn is_all<T: Send + Sync + Unpin + Debug + 'static>() {}
    fn is_clone<T: Clone>() {}
    is_all::<FileStore>();
    is_all::<MemoryStore>();
    is_all::<StoreError>();
    is_clone::<FileStore>();
    is_clone::<MemoryStore>();
}

// ===== keys =====

#[tokio::test]
async fn a_key_cannot_leave_the_folder() {
    let long = "x".repeat(129);
    let bad: [(&str, &str); 18] = [
        ("", "`` is empty"),
        (".", "`.` begins with `.`"),
        ("..", "`..` begins with `.`"),
        (".hidden", "begins with `.`"),
        ("../x", "`../x` has `/` in it"),
        ("/etc/passwd", "has `/` in it"),
        ("a/b", "has `/` in it"),
        (r"a\b", r"`a\\b` has `\\` in it"),
        (r"C:\x", "has `:` in it"),
        ("a\0b", r"`a\u{0}b` has `\u{0}` in it"),
        ("a\nb", r"`a\nb` has `\n` in it"),
        ("\u{7f}", r"has `\u{7f}` in it"),
        ("a b", "has ` ` in it"),
        ("schlüssel", r"`schl\u{fc}ssel` has `\u{fc}` in it"),
        ("\u{202e}", r"has `\u{202e}` in it"),
        ("a*", "has `*` in it"),
        ("`", "has ``` in it"),
        (&long, "`xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...` has 129 bytes"),
    ];
    let outside = Folder::new();
    let folder = outside.path().join("a/b");
    let store = FileStore::new(&folder).unwrap();
    for (key, says) in bad {
        let memory = MemoryStore::new();
        for error in [
            store.save(key, "x".into()).await.unwrap_err(),
            store.load(key).await.unwrap_err(),
            memory.save(key, "x".into()).await.unwrap_err(),
            memory.load(key).await.unwrap_err(),
        ] {
            let text = error.to_string();
            assert!(text.contains(says), "{text}");
            assert!(text.contains("1 to 128 ASCII letters, digits"), "{text}");
            assert!(error.is_invalid_key() && !error.is_foreign() && !error.is_damaged());
            assert!(error.path().is_none() && error.source().is_none());
        }
    }
    let inside = fs::read_dir(&folder).unwrap().map(|file| file.unwrap());
    let inside: Vec<_> = inside.map(|file| file.file_name()).collect();
    assert_eq!(inside, ["lock"]);
    assert_eq!(outside.names(), ["a"]);
}

#[tokio::test]
async fn a_key_may_be_all_that_a_file_name_can_be() {
    let longest = "x".repeat(128);
    let good = [
        "a", "0", "a.b_c-9", "a..", "-", "CON", "nul", "lock", "tmp-a", "state-a", &longest,
    ];
    let folder = Folder::new();
    let store = FileStore::new(folder.path()).unwrap();
    for key in good {
        store
            .save(key, Bytes::copy_from_slice(key.as_bytes()))
            .await
            .unwrap();
    }
    for key in good {
        assert_eq!(store.load(key).await.unwrap().unwrap(), key);
    }
    assert_eq!(folder.names().len(), good.len() + 1);
}

// ===== damaged and foreign files =====

/// Asserts that the bytes and the times are unchanged.
#[track_caller]
fn assert_untouched(path: &Path, content: &[u8], before: &fs::Metadata) {
    assert!(fs::read(path).unwrap() == content);
    let after = fs::metadata(path).unwrap();
    assert_eq!(after.modified().unwrap(), before.modified().unwrap());
}

/// A folder in which `queue` is saved as "job 7, job 8".
async fn saved() -> (Folder, FileStore, PathBuf, Vec<u8>) {
    let folder = Folder::new();
    let store = FileStore::new(folder.path()).unwrap();
    store.save("queue", "job 7, job 8".into()).await.unwrap();
    let file = folder.path().join("state-queue");
    let content = fs::read(&file).unwrap();
    (folder, store, file, content)
}

#[tokio::test]
async fn a_flipped_bit_is_an_error_wherever_it_is() {
    let (_folder, store, file, whole) = saved().await;
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(&file, &flipped).unwrap();
        let before = fs::metadata(&file).unwrap();

        let error = store.load("queue").await.unwrap_err();
        // The magic and the version identify the format.
        assert_eq!(error.is_foreign(), bit < 12 * 8, "bit {bit}: {error}");
        assert_eq!(error.is_damaged(), bit >= 12 * 8, "bit {bit}: {error}");
        assert_eq!(error.path(), Some(&*file));
        assert!(error.to_string().contains(&format!("{file:?}")), "{error}");
        assert_untouched(&file, &flipped, &before);
    }
    fs::write(&file, &whole).unwrap();
    assert_eq!(store.load("queue").await.unwrap().unwrap(), "job 7, job 8");
}

#[tokio::test]
async fn a_file_that_is_cut_off_or_longer_is_damaged() {
    let (_folder, store, file, whole) = saved().await;
    let longer = [&whole[..], b"\0"].concat();
    let twice = [&whole[..], &whole[..]].concat();
    let cut = (0..whole.len()).map(|length| &whole[..length]);
    for content in cut.chain([&longer[..], &twice[..]]) {
        fs::write(&file, content).unwrap();
        let before = fs::metadata(&file).unwrap();
        let error = store.load("queue").await.unwrap_err();
        assert!(error.is_damaged(), "{} bytes: {error}", content.len());
        assert!(error.source().is_none());
        assert_untouched(&file, content, &before);
    }
    let cases = [
        (whole.len() - 3, "its last 3 bytes are missing"),
        (20, "it ends within its header"),
        (0, "it ends within its header"),
    ];
    for (length, says) in cases {
        fs::write(&file, &whole[..length]).unwrap();
        let text = store.load("queue").await.unwrap_err().to_string();
        assert!(text.contains(says), "{text}");
    }
    fs::write(&file, &longer).unwrap();
    let text = store.load("queue").await.unwrap_err().to_string();
    assert!(text.contains("it has 1 bytes too many"), "{text}");
}

#[tokio::test]
async fn a_length_that_the_file_does_not_have_is_not_believed() {
    let (_folder, store, file, whole) = saved().await;
    for length in [u64::MAX, u64::MAX - 34, 1 << 62, 1 << 40] {
        let mut bogus = whole.clone();
        bogus[20..28].copy_from_slice(&length.to_le_bytes());
        let header = 29 + "queue".len();
        let crc = crc32fast::hash(&bogus[16..header]);
        bogus[12..16].copy_from_slice(&crc.to_le_bytes());
        fs::write(&file, &bogus).unwrap();

        let error = store.load("queue").await.unwrap_err();
        let says = format!("its last {} bytes are missing", length - 12);
        assert!(error.is_damaged());
        assert!(error.to_string().contains(&says), "{error}");
    }
}

#[tokio::test]
async fn a_damaged_file_is_replaced_by_the_next_save() {
    let (folder, store, file, whole) = saved().await;
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let mut header = whole.clone();
    header[30] ^= 1;
    for content in [&flipped[..], &header, &whole[..40], &whole[..20], b""] {
        fs::write(&file, content).unwrap();
        assert!(store.load("queue").await.unwrap_err().is_damaged());
        store.save("queue", "job 9".into()).await.unwrap();
        assert_eq!(store.load("queue").await.unwrap().unwrap(), "job 9");
    }
    assert_eq!(folder.names(), ["lock", "state-queue"]);
}

#[tokio::test]
async fn a_foreign_file_is_neither_read_nor_replaced() {
    let (folder, store, file, whole) = saved().await;
    let mut newer = whole.clone();
    newer[8..12].copy_from_slice(&2_u32.to_le_bytes());
    store.save("Queue", "job 7".into()).await.unwrap();
    let other_key = fs::read(folder.path().join("state-queue+1")).unwrap();

    for (content, says) in [
        (
            &b"my notes, far longer than any header of ours is"[..],
            "not written by a `FileStore`",
        ),
        (b"x", "not written by a `FileStore`"),
        (
            &newer,
            "has version 2 of the format, but only version 1 is supported",
        ),
        (&other_key, "holds the state of the key `Queue`"),
    ] {
        fs::write(&file, content).unwrap();
        let before = fs::metadata(&file).unwrap();
        for error in [
            store.load("queue").await.unwrap_err(),
            store.save("queue", "job 9".into()).await.unwrap_err(),
        ] {
            assert!(error.is_foreign() && !error.is_damaged() && !error.is_invalid_key());
            assert!(error.to_string().contains(says), "{error}");
            assert!(error.to_string().contains(&format!("{file:?}")), "{error}");
            assert_eq!(error.path(), Some(&*file));
        }
        assert_untouched(&file, content, &before);
        assert_eq!(folder.names(), ["lock", "state-queue", "state-queue+1"]);
    }
}

#[cfg(unix)]
#[tokio::test]
async fn what_is_no_file_is_foreign_and_left_alone() {
    let folder = Folder::new();
    let store = FileStore::new(folder.path()).unwrap();
    let path = |key: &str| folder.path().join(format!("state-{key}"));
    fs::create_dir(path("folder")).unwrap();
    let victim = folder.path().join("victim");
    std::os::unix::fs::symlink(&victim, path("link")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();

    for key in ["folder", "link", "socket"] {
        for error in [
            store.load(key).await.unwrap_err(),
            store.save(key, "x".into()).await.unwrap_err(),
        ] {
            assert!(error.is_foreign(), "{error}");
            assert!(
                error.to_string().contains("is not a regular file"),
                "{error}"
            );
        }
        assert!(!fs::symlink_metadata(path(key)).unwrap().is_file());
    }
    assert!(!victim.exists());
}

// ===== the temporary file =====

#[tokio::test]
async fn what_a_dead_process_left_behind_is_overwritten() {
    let (folder, store, ..) = saved().await;
    let left = folder.path().join("tmp-queue");
    fs::write(&left, vec![b'x'; 1 << 20]).unwrap();
    assert_eq!(store.load("queue").await.unwrap().unwrap(), "job 7, job 8");
    store.save("queue", "job 9".into()).await.unwrap();
    assert_eq!(store.load("queue").await.unwrap().unwrap(), "job 9");
    assert_eq!(folder.names(), ["lock", "state-queue"]);
}

#[cfg(unix)]
#[tokio::test]
async fn a_link_in_the_place_of_the_temporary_file_is_not_followed() {
    let (folder, store, file, _) = saved().await;
    let victim = folder.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    std::os::unix::fs::symlink(&victim, folder.path().join("tmp-queue")).unwrap();
    store.save("queue", "job 9".into()).await.unwrap();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    assert!(fs::symlink_metadata(&file).unwrap().is_file());
    assert_eq!(store.load("queue").await.unwrap().unwrap(), "job 9");
}

#[cfg(unix)]
#[tokio::test]
async fn the_files_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let (folder, ..) = saved().await;
    for name in folder.names() {
        let meta = fs::metadata(folder.path().join(name)).unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    }
}

// ===== errors of the system =====

#[tokio::test]
async fn a_save_that_fails_leaves_the_earlier_state_and_nothing_else() {
    let (folder, store, ..) = saved().await;
    let in_the_way = folder.path().join("tmp-queue");
    fs::create_dir(&in_the_way).unwrap();
    let error = store.save("queue", "job 9".into()).await.unwrap_err();
    assert_eq!(error.path(), Some(&*in_the_way));
    assert!(error.to_string().contains(&format!("{in_the_way:?}")));
    assert!(error.source().unwrap().is::<io::Error>());
    assert!(!error.is_damaged() && !error.is_foreign() && !error.is_invalid_key());
    assert_eq!(store.load("queue").await.unwrap().unwrap(), "job 7, job 8");

    fs::remove_dir(&in_the_way).unwrap();
    store.save("queue", "job 9".into()).await.unwrap();
    assert_eq!(store.load("queue").await.unwrap().unwrap(), "job 9");
}

#[tokio::test]
async fn a_folder_that_is_gone_is_an_error_and_not_none() {
    let (folder, store, ..) = saved().await;
    fs::remove_dir_all(folder.path()).unwrap();
    for error in [
        store.load("queue").await.unwrap_err(),
        store.save("queue", "x".into()).await.unwrap_err(),
    ] {
        assert_eq!(error.path(), Some(folder.path()));
        let source = error.source().unwrap().downcast_ref::<io::Error>();
        assert_eq!(source.unwrap().kind(), io::ErrorKind::NotFound);
    }
    assert!(!folder.path().exists());
}

#[tokio::test]
async fn a_file_in_the_place_of_the_folder_is_an_error() {
    let (folder, store, ..) = saved().await;
    fs::remove_dir_all(folder.path()).unwrap();
    fs::write(folder.path(), "a file").unwrap();
    for error in [
        store.load("queue").await.unwrap_err(),
        store.save("queue", "x".into()).await.unwrap_err(),
    ] {
        assert_eq!(error.path(), Some(folder.path()));
        assert!(error.source().is_some(), "{error}");
    }
    for error in [
        FileStore::new(folder.path()).unwrap_err(),
        FileStore::new(folder.path().join("below")).unwrap_err(),
        FileStore::new("").unwrap_err(),
    ] {
        assert!(
            error.path().is_some() && error.source().is_some(),
            "{error}"
        );
    }
    assert_eq!(fs::read_to_string(folder.path()).unwrap(), "a file");
}

#[cfg(unix)]
#[tokio::test]
async fn a_folder_without_permission_is_an_error_and_loses_nothing() {
    use std::os::unix::fs::PermissionsExt;
    let (folder, store, ..) = saved().await;
    let set = |mode| fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode));
    set(0o500).unwrap();
    if File::create(folder.path().join("probe")).is_ok() {
        println!("skipped: root may do everything");
        return;
    }
    let error = store.save("queue", "job 9".into()).await.unwrap_err();
    let source = error.source().unwrap().downcast_ref::<io::Error>().unwrap();
    assert_eq!(source.kind(), io::ErrorKind::PermissionDenied);
    assert_eq!(error.path(), Some(&*folder.path().join("tmp-queue")));
    assert_eq!(store.load("queue").await.unwrap().unwrap(), "job 7, job 8");
    set(0o000).unwrap();
    let error = store.load("queue").await.unwrap_err();
    assert_eq!(error.path(), Some(&*folder.path().join("state-queue")));
    set(0o700).unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn a_relative_path_is_taken_at_once() {
    let folder = Folder::new();
    let here = std::env::current_dir().unwrap();
    let up: PathBuf = here.components().skip(1).map(|_| "..").collect();
    let relative = up.join(folder.path().strip_prefix("/").unwrap());
    let store = FileStore::new(&relative).unwrap();
    fs::remove_dir_all(folder.path()).unwrap();
    let error = store.load("queue").await.unwrap_err();
    assert!(error.path().unwrap().is_absolute(), "{error}");
}

/// Polls a future to its end on this thread, without a runtime.
fn without_runtime<T>(future: impl Future<Output = T>) -> T {
    struct Unparks(std::thread::Thread);
    impl std::task::Wake for Unparks {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unparks(std::thread::current())).into();
    let mut future = std::pin::pin!(future);
    loop {
        if let Poll::Ready(result) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return result;
        }
        std::thread::park();
    }
}

#[test]
fn it_needs_no_runtime() {
    let folder = Folder::new();
    let store = FileStore::new(folder.path()).unwrap();
    without_runtime(store.save("queue", "x".into())).unwrap();
    let loaded = without_runtime(store.load("queue")).unwrap();
    assert_eq!(loaded.unwrap(), "x");
}

// ===== at the same time =====

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_that_save_at_once_leave_one_whole_state() {
    const TASKS: u64 = 16;
    const SAVES: u64 = 12;
    let folder = Folder::new();
    let stores = [
        FileStore::new(folder.path()).unwrap(),
        FileStore::new(folder.path()).unwrap(),
    ];
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let store = stores[(task % 2) as usize].clone();
        tasks.spawn(async move {
            for save in 0..SAVES {
                let number = task * SAVES + save;
                let state = made_state(number, (number as usize * 7919) % 300_000);
                store.save("queue", state.into()).await.unwrap();
                let loaded = store.load("queue").await.unwrap().unwrap();
                assert!(check_whole(&loaded) < TASKS * SAVES);
            }
        });
    }
    let joined = tokio::time::timeout(TIMEOUT, tasks.join_all()).await;
    joined.expect("all get their turn");
    let loaded = stores[0].load("queue").await.unwrap().unwrap();
    check_whole(&loaded);
    assert_eq!(folder.names(), ["lock", "state-queue"]);
}

#[tokio::test]
async fn saves_of_one_store_are_done_in_order() {
    let folder = Folder::new();
    let store = FileStore::new(folder.path()).unwrap();
    for round in 0..20_u64 {
        let saves = (0..10).map(|n| {
            let state = made_state(round * 10 + n, 1000 * (10 - n as usize));
            let store = store.clone();
            async move { store.save("queue", state.into()).await }
        });
        for saved in futures_util::future::join_all(saves).await {
            saved.unwrap();
        }
        let loaded = store.load("queue").await.unwrap().unwrap();
        assert_eq!(check_whole(&loaded), round * 10 + 9);
    }
}

#[tokio::test]
async fn a_save_that_is_dropped_is_finished_before_the_next() {
    let folder = Folder::new();
    let store = FileStore::new(folder.path()).unwrap();
    // Many short ones: in a race for the lock, the first thread would usually win.
    for number in 0..400 {
        let mut dropped = Box::pin(store.save("queue", made_state(number, 10).into()));
        let mut cx = Context::from_waker(Waker::noop());
        // Already done, if this thread is slower than the other.
        let _ = dropped.poll_unpin(&mut cx);
        drop(dropped);
        store.save("other", "x".into()).await.unwrap();
        let loaded = store.load("queue").await.unwrap().unwrap();
        assert_eq!(check_whole(&loaded), number);
    }
}

#[tokio::test]
async fn a_save_waits_for_the_lock_of_another_and_a_load_does_not() {
    let (folder, store, ..) = saved().await;
    let lock = File::create(folder.path().join("lock")).unwrap();
    fs4::FileExt::lock(&lock).unwrap();
    let mut save = Box::pin(store.save("queue", "job 9".into()));
    // While it waits, another one has all the time that it needs.
    for _ in 0..20 {
        assert!(futures_util::poll!(&mut save).is_pending());
        let load = tokio::time::timeout(TIMEOUT, store.load("queue")).await;
        let load = load.expect("a load does not wait for a lock");
        assert_eq!(load.unwrap().unwrap(), "job 7, job 8");
    }
    assert_eq!(folder.names(), ["lock", "state-queue"]);
    drop(lock);
    tokio::time::timeout(TIMEOUT, save).await.unwrap().unwrap();
    assert_eq!(store.load("queue").await.unwrap().unwrap(), "job 9");
}

#[test]
fn a_save_that_waits_for_a_lock_does_not_hold_up_the_end_of_the_runtime() {
    let folder = Folder::new();
    let store = FileStore::new(folder.path()).unwrap();
    let lock = File::create(folder.path().join("lock")).unwrap();
    fs4::FileExt::lock(&lock).unwrap();
    let (ended, end) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut save = Box::pin(store.save("queue", "x".into()));
            assert!(futures_util::poll!(&mut save).is_pending());
            // Meanwhile the save has begun to wait, on its thread.
            assert_eq!(store.load("queue").await.unwrap(), None);
        });
        drop(runtime);
        ended.send(()).unwrap();
    });
    end.recv_timeout(TIMEOUT).expect("the runtime ends");
    assert_eq!(folder.names(), ["lock"]);
}
