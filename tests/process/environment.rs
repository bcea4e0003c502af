//! The settings of a process, from its environment.

use std::process::Command;

use tower_lifecycle::ShutdownConfig;

/// Marks the child process of a test.
const CHILD: &str = "TOWER_LIFECYCLE_TEST_CHILD";

/// Runs this test binary again with a clean environment and `variables`. Returns what
/// [`reads_the_environment_of_a_child`] printed there.
fn read_in_child(variables: &[(&str, &std::ffi::OsStr)]) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "environment::reads_the_environment_of_a_child",
            "--nocapture",
        ])
        .env(CHILD, "1")
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn reads_the_environment_of_a_child() {
    if std::env::var_os(CHILD).is_some() {
        match ShutdownConfig::from_env("TL_CHILD") {
            Ok(config) => println!("child: {:?} {:?}", config.lame_duck, config.refuse_for),
            Err(error) => println!("child: {error}"),
        }
        return;
    }

    let out = read_in_child(&[
        ("TL_CHILD_LAME_DUCK", "1m 30s".as_ref()),
        ("TL_CHILD_LOG", "debug".as_ref()),
        ("LAME_DUCK", "none of ours".as_ref()),
    ]);
    assert!(out.contains("child: 90s 0ns\n"), "{out}");

    let out = read_in_child(&[("TL_CHILD_LAME_DUCK", "abc".as_ref())]);
    assert!(
        out.contains(r#"child: TL_CHILD_LAME_DUCK is "abc", but must be seconds"#),
        "{out}"
    );

    #[cfg(unix)]
    {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;

        let out = read_in_child(&[("TL_CHILD_LAME_DUCK", OsStr::from_bytes(b"5\xff\n"))]);
        assert!(
            out.contains(r#"child: TL_CHILD_LAME_DUCK is "5\xFF\n", but must be seconds"#),
            "{out}"
        );
    }
}
