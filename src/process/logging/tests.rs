use super::*;

/// A reader that takes one line each time the test allows it.
struct Reader {
    go_rx: Receiver<()>,
    line_tx: Sender<String>,
}

impl Write for Reader {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let _ = self.go_rx.recv();
        let _ = self.line_tx.send(String::from_utf8_lossy(line).into_owned());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn nobody_waits_for_a_reader_and_what_is_dropped_is_counted() {
    let (mut log, item_rx) = queue(4);
    let (go_tx, go_rx) = crossbeam_channel::unbounded();
    let (line_tx, line_rx) = crossbeam_channel::unbounded();
    let (dropped, mut own) = (Arc::clone(&log.dropped), log.clone());
    let thread = thread::spawn(move || {
        let own = std::cell::RefCell::new(&mut own);
        run_stderr(&item_rx, &dropped, Reader { go_rx, line_tx }, |count| {
            own.borrow_mut().write_all(format!("{count} dropped\n").as_bytes()).unwrap()
        });
    });
    // At most one is being written, and four wait.
    for n in 0..100 {
        log.write_all(format!("line {n}\n").as_bytes()).unwrap();
    }
    let kept = 100 - log.dropped.load(Ordering::Relaxed);
    assert!((4..=5).contains(&kept), "{kept}");
    drop(go_tx);
    for n in 0..4 {
        assert_eq!(line_rx.recv().unwrap(), format!("line {n}\n"));
    }
    let more: Vec<String> = (4..=kept).map(|_| line_rx.recv().unwrap()).collect();
    assert_eq!(more.last(), Some(&format!("{} dropped\n", 100 - kept)), "{more:?}");
    log.write_all(&[b'x'; LINE_LEN_MAX + 1]).unwrap();
    let long = line_rx.recv().unwrap();
    assert!(long.ends_with("x... (8193 bytes)\n") && long.len() < LINE_LEN_MAX + 30, "{}", long.len());

    log.print(b"last words".to_vec(), Instant::now() + Duration::from_secs(60));
    assert_eq!(line_rx.try_recv().as_deref(), Ok("last words"));

    // As if there had been no room.
    log.dropped.store(7, Ordering::Relaxed);
    Logging { queue: log, thread }.end();
    assert_eq!(line_rx.iter().collect::<Vec<_>>(), ["7 dropped\n"]);
}

/// The panicking process is this test, run as a child.
#[test]
fn a_panic_ends_the_process_with_its_message_and_without_one_if_nobody_reads() {
    use std::io::{Read, pipe};
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};

    const PANICS: &str = "KVMESH_TEST_PANICS";
    if std::env::var_os(PANICS).is_some() {
        let _logging = start().unwrap();
        abort_on_panic();
        log::info!("before it");
        thread::Builder::new().name("client-7".to_owned()).spawn(|| panic!("out of {}\u{1b}[2J", "cheese")).unwrap().join().unwrap();
    }
    let panicking = |stderr: io::PipeWriter| {
        let mut test = Command::new(std::env::current_exe().unwrap());
        test.args([
            "--exact",
            "--nocapture",
            "process::logging::tests::a_panic_ends_the_process_with_its_message_and_without_one_if_nobody_reads",
        ]);
        test.env(PANICS, "1").env_remove("RUST_LOG").stdout(Stdio::null()).stderr(stderr).spawn().unwrap()
    };
    let (mut reader, writer) = pipe().unwrap();
    let mut process = panicking(writer);
    let mut output = String::new();
    reader.read_to_string(&mut output).unwrap();
    assert_eq!(process.wait().unwrap().signal(), Some(6), "{output}");
    let (before, panic) = output.split_once("thread 'client-7' panicked at ").unwrap_or_else(|| panic!("{output}"));
    assert!(before.contains("before it") && panic.contains("\nout of cheese\\x1B[2J\n"), "{output}");

    let (_reader, mut writer) = pipe().unwrap();
    let full = {
        let writer = writer.try_clone().unwrap();
        move || {
            use std::os::fd::AsFd;
            let mut polled = [nix::poll::PollFd::new(writer.as_fd(), nix::poll::PollFlags::POLLOUT)];
            nix::poll::poll(&mut polled, nix::poll::PollTimeout::ZERO).unwrap() == 0
        }
    };
    while !full() {
        writer.write_all(&[b'.'; 4096]).unwrap();
    }
    let mut process = panicking(writer);
    let deadline = Instant::now() + Duration::from_secs(30);
    while process.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            process.kill().unwrap();
            panic!("it hangs");
        }
        thread::park_timeout(Duration::from_millis(10));
    }
}
