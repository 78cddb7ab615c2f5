use super::*;

fn eps(text: &str) -> Epsilon {
    text.parse().unwrap()
}

fn open(path: &Path) -> Result<LedgerFile, LedgerFileError> {
    LedgerFile::open(path, eps("1"), 0.0)
}

#[test]
fn spends_across_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.jsonl");
    for round in 1..=3u64 {
        let mut ledger = open(&path).unwrap();
        let _ = ledger.spend("q", eps("0.3")).unwrap();
        assert_eq!(ledger.ledger().spent_nanos(), round * 300_000_000);
    }
    let mut ledger = open(&path).unwrap();
    let refused = ledger.spend("q", eps("0.3")).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "privacy budget: asked for 0.3, left 0.1 of 1"
    );
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 4);
}

#[test]
fn one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.jsonl");
    let first = open(&path).unwrap();
    assert!(matches!(open(&path), Err(LedgerFileError::Locked { .. })));
    drop(first);
    assert!(open(&path).is_ok());
}

#[test]
fn a_deleted_cut_or_older_ledger_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.jsonl");
    let mut ledger = open(&path).unwrap();
    let _ = ledger.spend("a", eps("0.1")).unwrap();
    let old = std::fs::read(&path).unwrap();
    let _ = ledger.spend("b", eps("0.1")).unwrap();
    drop(ledger);
    let refused = || match open(&path) {
        Err(LedgerFileError::Ledger { source, .. }) => source,
        other => panic!("{other:?}"),
    };
    std::fs::write(&path, &old).unwrap();
    assert_eq!(refused(), LedgerError::Older { want: 2, found: 1 });
    std::fs::write(&path, []).unwrap();
    assert_eq!(refused(), LedgerError::Older { want: 2, found: 0 });
    std::fs::remove_file(&path).unwrap();
    assert_eq!(refused(), LedgerError::Older { want: 2, found: 0 });
}

#[test]
fn a_missing_head_is_refused_once_something_was_spent() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.jsonl");
    let head = dir.path().join("ledger.jsonl.head");
    drop(open(&path).unwrap());
    let mut ledger = open(&path).unwrap();
    let _ = ledger.spend("a", eps("0.1")).unwrap();
    drop(ledger);
    std::fs::remove_file(&head).unwrap();
    for _ in 0..2 {
        let error = open(&path).unwrap_err();
        assert!(matches!(error, LedgerFileError::NoHead { .. }));
        assert!(error.to_string().contains("ledger.jsonl.head"));
    }
}

#[test]
fn a_torn_head_slot_falls_back_to_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.jsonl");
    let head = dir.path().join("ledger.jsonl.head");
    let mut ledger = open(&path).unwrap();
    for _ in 0..3 {
        let _ = ledger.spend("a", eps("0.1")).unwrap();
    }
    drop(ledger);
    let mut bytes = std::fs::read(&head).unwrap();
    bytes[SLOT + 80..SLOT + 100].fill(b'0');
    std::fs::write(&head, bytes).unwrap();
    assert_eq!(open(&path).unwrap().ledger().head().entry, 3);
}

#[test]
fn a_cut_line_is_settled_in_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.jsonl");
    let mut ledger = open(&path).unwrap();
    let _ = ledger.spend("a", eps("0.1")).unwrap();
    drop(ledger);
    // As if a second entry had been cut while it was written.
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.extend_from_slice(br#"{"entry":2,"label":"b","epsilon":0.2,"sp"#);
    std::fs::write(&path, &bytes).unwrap();
    let ledger = open(&path).unwrap();
    assert_eq!(ledger.cut_line(), Some(CutLine::Charged(eps("0.2"))));
    drop(ledger);
    let ledger = open(&path).unwrap();
    assert_eq!(
        (ledger.cut_line(), ledger.ledger().spent_nanos()),
        (None, 300_000_000)
    );
}

#[test]
fn refuses_files_that_others_can_write_and_links() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.jsonl");
    drop(open(&path).unwrap());
    let link = dir.path().join("link.jsonl");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(matches!(open(&link), Err(LedgerFileError::Io { .. })));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    assert!(matches!(open(&path), Err(LedgerFileError::Unsafe { .. })));
}

#[test]
fn errors_name_the_file_and_the_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.jsonl");
    let mut ledger = open(&path).unwrap();
    let _ = ledger.spend("a", eps("0.1")).unwrap();
    drop(ledger);
    let text = std::fs::read_to_string(&path)
        .unwrap()
        .replace("\"epsilon\":0.1", "\"epsilon\":0.0");
    std::fs::write(&path, text).unwrap();
    let error = open(&path).unwrap_err().to_string();
    assert!(error.contains("ledger.jsonl: line 2 "), "{error}");
    let missing = dir.path().join("no/such/ledger.jsonl");
    assert!(
        open(&missing)
            .unwrap_err()
            .to_string()
            .contains("no/such/ledger.jsonl")
    );
}

/// A file system of 64 KiB shows the full disk for real.
#[test]
fn a_full_disk_spends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64k", "chaff-test"])
        .arg(dir.path())
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok_and(|s| s.success());
    if !mounted {
        println!("skipped: needs CAP_SYS_ADMIN to mount a small file system");
        return;
    }
    let path = dir.path().join("ledger.jsonl");
    let result = std::panic::catch_unwind(|| {
        let mut ledger = LedgerFile::open(&path, eps("1000"), 0.0).unwrap();
        let _ = ledger.spend("before", eps("0.1")).unwrap();
        let filler = dir.path().join("filler");
        let _ = std::fs::write(&filler, vec![0u8; 1 << 20]);
        let long = "x".repeat(5000);
        let error = ledger.spend(&long, eps("0.1")).unwrap_err();
        assert!(matches!(error, LedgerFileError::Io { .. }), "{error}");
        assert_eq!(ledger.ledger().spent_nanos(), 100_000_000);
        std::fs::remove_file(&filler).unwrap();
        let _ = ledger.spend("after", eps("0.1")).unwrap();
        drop(ledger);
        let ledger = LedgerFile::open(&path, eps("1000"), 0.0).unwrap();
        assert_eq!(ledger.ledger().spent_nanos(), 200_000_000);
    });
    let _ = std::process::Command::new("umount")
        .arg(dir.path())
        .status();
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}
