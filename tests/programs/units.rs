//! The units in `examples/deploy`, read by systemd itself.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Where the units expect the program. It has to exist, so the test puts one there that does.
const PROGRAM: &str = "/usr/local/bin/app";

#[test]
#[ignore = "needs systemd-analyze"]
fn systemd_finds_no_fault_with_the_units() {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/deploy/systemd");
    let copies = Path::new(env!("CARGO_TARGET_TMPDIR")).join("units");
    fs::create_dir_all(&copies).unwrap();
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]);
    for name in ["app.service", "app.socket"] {
        let unit = fs::read_to_string(units.join(name)).unwrap();
        let copy = copies.join(name);
        fs::write(&copy, unit.replace(PROGRAM, "/bin/true")).unwrap();
        verify.arg(copy);
    }
    let output = verify.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    // An unknown key is only a warning.
    assert!(!said.contains("app."), "{said}");
}
