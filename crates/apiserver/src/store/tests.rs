//! Durability, order, conflicts and compaction.

use super::*;
use serde_json::json;
use std::io;

fn table() -> Arc<str> {
    table_name(Resource::new("", "configmaps"))
}

fn put(name: &str, data: &str, expect: Expect) -> Write {
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default"}, "data": {"value": data}});
    Write {
        table: table(),
        namespace: "default".to_owned(),
        name: name.to_owned(),
        object: Some(object),
        expect,
    }
}

fn remove(name: &str, revision: u64) -> Write {
    Write { object: None, ..put(name, "", Expect::Revision(revision)) }
}

fn open(folder: &std::path::Path) -> Store {
    Store::open(File::new(folder.join("store.redb"))).unwrap()
}

#[tokio::test]
async fn writes_follow_their_expectations() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let first = store.write(put("a", "1", Expect::Absent)).await.unwrap();
    assert_eq!(first.value["metadata"]["resourceVersion"], first.revision.to_string());
    assert_eq!(store.write(put("a", "2", Expect::Absent)).await.unwrap_err(), StoreError::Exists);
    let second = store.write(put("a", "2", Expect::Revision(first.revision))).await.unwrap();
    assert!(second.revision > first.revision);
    assert_eq!(
        store.write(put("a", "3", Expect::Revision(first.revision))).await.unwrap_err(),
        StoreError::Changed
    );
    assert_eq!(store.write(put("b", "1", Expect::Revision(1))).await.unwrap_err(), StoreError::Missing);
    let gone = store.write(remove("a", second.revision)).await.unwrap();
    assert!(gone.revision > second.revision);
    assert_eq!(store.write(remove("a", gone.revision)).await.unwrap_err(), StoreError::Missing);
}

#[tokio::test]
async fn of_many_writers_on_one_revision_one_wins() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let first = store.write(put("a", "0", Expect::Absent)).await.unwrap();
    let writes =
        (0..32).map(|index| store.write(put("a", &index.to_string(), Expect::Revision(first.revision))));
    let results = futures::future::join_all(writes).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    assert!(results.iter().all(|result| matches!(result, Ok(_) | Err(StoreError::Changed))));
}

#[tokio::test]
async fn a_reader_sees_every_change_in_order_and_resumes_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let first = store.write(put("a", "1", Expect::Absent)).await.unwrap();
    let mut reader = store.changes(&table(), 0).unwrap();
    let second = store.write(put("a", "2", Expect::Revision(first.revision))).await.unwrap();
    let third = store.write(remove("a", second.revision)).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        for event in reader.next(2).await.unwrap() {
            seen.push((event.event_type, event.revision()));
        }
    }
    assert_eq!(
        seen,
        [
            (EventType::Added, first.revision),
            (EventType::Modified, second.revision),
            (EventType::Deleted, third.revision)
        ]
    );
    drop((store, reader));
    let store = open(folder.path());
    assert_eq!(store.changes(&table(), second.revision).unwrap_err().oldest, third.revision);
    let mut reader = store.changes(&table(), third.revision).unwrap();
    let fourth = store.write(put("b", "1", Expect::Absent)).await.unwrap();
    assert!(fourth.revision > third.revision);
    assert_eq!(store.quiet_since(&reader), None, "a change waits to be read");
    assert_eq!(reader.next(10).await.unwrap()[0].revision(), fourth.revision);
    let other = Write { table: "/secrets".into(), ..put("c", "1", Expect::Absent) };
    let fifth = store.write(other).await.unwrap();
    assert_eq!(store.quiet_since(&reader), Some(fifth.revision), "what a bookmark may say");
}

#[tokio::test]
async fn a_slow_reader_is_told_that_it_is_behind() {
    let log = Arc::new(Log::with_limit(0, 4));
    let mut reader = Reader::new(log.clone(), None, 0).unwrap();
    let event = |revision: u64| {
        let stored = Arc::new(Stored::new(json!({"metadata": {"name": "a"}}), revision));
        Arc::new(Event::new(EventType::Modified, table(), stored, None))
    };
    log.append((1..=4).map(event));
    assert_eq!(reader.next(1).await.unwrap()[0].revision(), 1);
    log.append((5..=9).map(event));
    assert_eq!(reader.next(1).await.unwrap_err(), Behind { asked: 1, oldest: 5 });
    assert_eq!(Reader::new(log, None, 5).unwrap().next(10).await.unwrap().len(), 4);
}

#[tokio::test]
async fn a_reader_of_one_namespace_is_not_outrun_by_others() {
    let log = Arc::new(Log::with_limit(0, 4));
    let event = |namespace: &str, revision: u64| {
        let stored = Stored::new(json!({"metadata": {"name": "a", "namespace": namespace}}), revision);
        Arc::new(Event::new(EventType::Modified, table(), Arc::new(stored), None))
    };
    let mut one = Reader::new(log.clone(), Some("one"), 0).unwrap();
    let mut all = Reader::new(log.clone(), None, 0).unwrap();
    log.append([event("one", 1)]);
    assert_eq!(one.next(10).await.unwrap()[0].revision(), 1);
    log.append((2..=20).map(|revision| event("two", revision)));
    assert!(all.is_behind() && !one.is_behind());
    assert!(one.is_caught_up());
    log.append([event("one", 21)]);
    assert_eq!(one.next(10).await.unwrap()[0].revision(), 21);
    assert_eq!(all.next(10).await.unwrap_err(), Behind { asked: 0, oldest: 17 });
    // Of a namespace whose changes are forgotten, or of which nothing is known, the log says what it knows.
    assert_eq!(Reader::new(log.clone(), Some("two"), 5).unwrap_err().oldest, 17);
    assert!(Reader::new(log.clone(), Some("three"), 0).is_ok());
    log.forget();
    assert_eq!(Reader::new(log, Some("three"), 0).unwrap_err().oldest, 21);
}

#[tokio::test]
async fn watches_share_the_encoding_of_a_change() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    store.write(put("a", "1", Expect::Absent)).await.unwrap();
    let event = |mut reader: Reader| async move { reader.next(1).await.unwrap().remove(0) };
    let one = event(store.changes(&table(), 0).unwrap()).await.line(EventType::Added, "v1");
    let other = event(store.changes(&table(), 0).unwrap()).await.line(EventType::Added, "v1");
    assert_eq!(one.as_ptr(), other.as_ptr());
    assert!(
        one.starts_with(br#"{"type":"ADDED","object":{"apiVersion":"v1","kind":"ConfigMap","#),
        "{one:?}"
    );
    assert!(one.ends_with(b"}\n"));
}

#[tokio::test]
async fn the_past_can_be_read_as_long_as_its_changes_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let first = store.write(put("a", "1", Expect::Absent)).await.unwrap();
    let second = store.write(put("a", "2", Expect::Revision(first.revision))).await.unwrap();
    let third = store.write(put("b", "1", Expect::Absent)).await.unwrap();
    let gone = Write { object: None, ..put("a", "", Expect::Revision(second.revision)) };
    let fourth = store.write(gone).await.unwrap();
    let state = |revision: u64| {
        let snapshot = store.snapshot_at(&table(), revision)?;
        let values = snapshot.list(&table(), None, None).map(|(key, stored)| {
            format!("{}={}", key.name, stored.value["data"]["value"].as_str().unwrap_or_default())
        });
        Some(values.collect::<Vec<_>>())
    };
    assert_eq!(state(first.revision), Some(vec!["a=1".to_owned()]));
    assert_eq!(state(second.revision), Some(vec!["a=2".to_owned()]));
    assert_eq!(state(third.revision), Some(vec!["a=2".to_owned(), "b=1".to_owned()]));
    assert_eq!(state(fourth.revision), Some(vec!["b=1".to_owned()]));
    assert_eq!(state(fourth.revision + 1), None);
    store.compact();
    assert_eq!(state(third.revision), None);
}

#[tokio::test]
async fn compaction_forgets_and_snapshots_do_not() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    store.write(put("a", "1", Expect::Absent)).await.unwrap();
    let before = store.snapshot();
    let second = store.write(put("b", "1", Expect::Absent)).await.unwrap();
    store.compact();
    assert!(store.changes(&table(), before.revision).is_err());
    assert!(store.changes(&table(), second.revision).is_ok());
    assert_eq!(before.list(&table(), None, None).count(), 1);
    assert_eq!(store.snapshot().list(&table(), Some("default"), None).count(), 2);
    assert_eq!(store.snapshot().list(&table(), Some("other"), None).count(), 0);
}

/// The child of the crash test: writes until it is killed, and says what was acknowledged.
#[test]
fn crash_child() {
    let Some(folder) = std::env::var_os("LATEEN_STORE_CRASH") else { return };
    use std::io::Write as _;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let store = open(std::path::Path::new(&folder));
        let writer = |lane: usize| {
            let store = store.clone();
            async move {
                let mut revision = None;
                for count in 0..1_000_000 {
                    let expect = revision.map_or(Expect::Absent, Expect::Revision);
                    let name = format!("lane-{lane}");
                    let written = store.write(put(&name, &count.to_string(), expect)).await.unwrap();
                    revision = Some(written.revision);
                    let line = format!("ack {lane} {count} {}\n", written.revision);
                    io::stdout().lock().write_all(line.as_bytes()).unwrap();
                }
            }
        };
        futures::future::join_all((0..8).map(writer)).await;
    });
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9() {
    use std::io::BufRead as _;
    let folder = tempfile::tempdir().unwrap();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["store::tests::crash_child", "--exact", "--nocapture", "--test-threads=1"])
        .env("LATEEN_STORE_CRASH", folder.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = io::BufReader::new(child.stdout.take().unwrap()).lines();
    let mut acknowledged: HashMap<String, (u64, u64)> = HashMap::new();
    let mut killed = false;
    for line in lines.map_while(Result::ok) {
        let Some((_, line)) = line.split_once("ack ") else { continue };
        let mut words = line.split(' ');
        let (Some(lane), Some(Ok(count)), Some(Ok(revision))) =
            (words.next(), words.next().map(str::parse), words.next().map(str::parse))
        else {
            // The line that the kill cut off.
            continue;
        };
        acknowledged.insert(lane.to_owned(), (count, revision));
        if !killed && count >= 60 {
            child.kill().unwrap();
            killed = true;
        }
    }
    child.wait().unwrap();
    assert!(killed && acknowledged.len() == 8, "{acknowledged:?}");
    let store = open(folder.path());
    let last = acknowledged.values().map(|(_, revision)| *revision).max().unwrap();
    for (lane, (count, revision)) in acknowledged {
        let stored =
            store.read(&table(), "default", &format!("lane-{lane}")).expect("an acknowledged object");
        let value: u64 = stored.value["data"]["value"].as_str().unwrap().parse().unwrap();
        assert!(
            value >= count && stored.revision >= revision,
            "lane {lane}: {value} after {count} was acknowledged"
        );
        assert!(value <= count + 1, "lane {lane}: {value} was never asked for after {count}");
    }
    assert!(store.write(put("new", "1", Expect::Absent)).await.unwrap().revision > last);
}
