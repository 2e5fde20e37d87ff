//! Watches: a stream of lines, one change each, read from the resource's shared log.

use super::answer::{self, Body, Form};
use super::convert::{shown, shown_all};
use super::read::{Selection, Tables, check_options, partial, too_large};
use super::request::{Request, Target};
use crate::api::Api;
use crate::seam::KindInfo;
use crate::status::Status;
use crate::store::{Event, EventType, Reader, Stored, line, table_name};
use bytes::Bytes;
use futures::Stream;
use http::Response;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Time between bookmarks on a quiet watch.
const BOOKMARK_EVERY: Duration = Duration::from_secs(30);
/// The end of a watch that names none.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// How often it is looked whether a client that does not read can still catch up.
const STALLED: Duration = Duration::from_secs(30);
/// How long a client that cannot catch up is given to read that it cannot, before the connection is cut.
const LEFT: Duration = Duration::from_secs(120);
/// Changes taken from the log at once.
const CHUNK: usize = 256;

/// Answers a watch.
pub(super) async fn watch(
    api: &Arc<Api>,
    request: Request,
    target: &Target,
    kind: Arc<KindInfo>,
) -> Result<Response<Body>, Status> {
    let form = answer::negotiate(request.header(http::header::ACCEPT))?;
    let selection = Selection::of(&request, target, &kind)?;
    let timeout = request.query.number::<u64>("timeoutSeconds")?.filter(|seconds| *seconds > 0);
    check_options(&request, true)?;
    let initial_events = request.query.flag("sendInitialEvents");
    let asked = request.query.number::<u64>("resourceVersion")?.unwrap_or(0);
    let snapshot = api.store.snapshot();
    if asked > snapshot.revision {
        return Err(too_large(asked, snapshot.revision));
    }
    // Without a revision a watch begins with what there is, unless it is asked not to.
    let no_state = !request.query.get("sendInitialEvents").is_empty() && !initial_events;
    let from_state = (asked == 0 && !no_state) || initial_events;
    let (initial, position): (Vec<Arc<Stored>>, u64) = if from_state {
        let objects = snapshot
            .list(&table_name(kind.resource()), selection.namespace.as_deref(), None)
            .filter(|(_, stored)| selection.matches(&stored.value))
            .map(|(_, stored)| stored.clone());
        (objects.collect(), snapshot.revision)
    } else {
        (Vec::new(), if asked == 0 { snapshot.revision } else { asked })
    };
    let reader = api
        .store
        .changes_in(&table_name(kind.resource()), selection.namespace.as_deref(), position)
        .map_err(|behind| Status::expired(behind.to_string()))?;
    let initial = shown_all(api, &kind, initial).await?;
    let bookmarks = request.query.flag("allowWatchBookmarks");
    let watcher = Watcher { api: api.clone(), form, selection, kind, columns: true, request };
    let timeout = timeout.map_or(DEFAULT_TIMEOUT, Duration::from_secs);
    let end_of_initial = initial_events && bookmarks;
    let lines = stream(watcher, initial, reader, Options { bookmarks, end_of_initial, position, timeout });
    Ok(answer::stream("application/json", lines))
}

struct Options {
    bookmarks: bool,
    end_of_initial: bool,
    position: u64,
    timeout: Duration,
}

fn stream(
    mut watcher: Watcher,
    initial: Vec<Arc<Stored>>,
    mut reader: Reader,
    options: Options,
) -> impl Stream<Item = Bytes> + Send + Sync + 'static {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
    tokio::spawn(async move {
        let deadline = tokio::time::sleep(options.timeout);
        tokio::pin!(deadline);
        for stored in initial {
            if sender.send(watcher.line_of(EventType::Added, &stored)).await.is_err() {
                return;
            }
        }
        if options.end_of_initial && sender.send(watcher.bookmark(options.position, true)).await.is_err() {
            return;
        }
        let mut quiet = tokio::time::interval(BOOKMARK_EVERY);
        quiet.reset();
        loop {
            let lines: Vec<Bytes> = tokio::select! {
                biased;
                () = watcher.api.drain.signaled() => return,
                () = &mut deadline => return,
                events = reader.next(CHUNK) => match events {
                    Ok(events) => match watcher.lines(&events).await {
                        Ok(lines) => lines,
                        Err(status) => {
                            let _ = sender.send(error_line(&status)).await;
                            return;
                        }
                    },
                    Err(behind) => {
                        let _ = sender.send(error_line(&Status::expired(behind.to_string()))).await;
                        return;
                    }
                },
                _ = quiet.tick(), if options.bookmarks => {
                    match watcher.api.store.quiet_since(&reader) {
                        Some(revision) => vec![watcher.bookmark(revision, false)],
                        None => Vec::new(),
                    }
                }
                () = sender.closed() => return,
            };
            for line in lines {
                let send = sender.send(line);
                tokio::pin!(send);
                let late = loop {
                    tokio::select! {
                        biased;
                        sent = send.as_mut() => if sent.is_err() { return } else { break false },
                        () = watcher.api.drain.signaled() => return,
                        () = &mut deadline => return,
                        // Who reads nothing for so long that changes are lost to him has to begin anew anyway.
                        () = tokio::time::sleep(STALLED) => if reader.is_behind() { break true },
                    }
                };
                if late {
                    let status =
                        Status::expired("too old resource version: the client has not read for too long");
                    tokio::select! {
                        _ = sender.send(error_line(&status)) => {}
                        () = watcher.api.drain.signaled() => {}
                        () = tokio::time::sleep(LEFT) => {}
                    }
                    return;
                }
            }
        }
    });
    tokio_stream::wrappers::ReceiverStream::new(receiver)
}

struct Watcher {
    api: Arc<Api>,
    request: Request,
    form: Form,
    selection: Selection,
    kind: Arc<KindInfo>,
    /// Whether the next table carries its columns.
    columns: bool,
}

impl Watcher {
    /// How the watch sees changes.
    async fn lines(&mut self, events: &[Arc<Event>]) -> Result<Vec<Bytes>, Status> {
        if !self.api.schema.converts(&self.kind) {
            return Ok(events.iter().filter_map(|event| self.line(event)).collect());
        }
        let mut lines = Vec::new();
        for event in events {
            let Some((event_type, stored)) = self.sees(event) else { continue };
            // What left the selection is another object than the event's.
            let shared = self.form == Form::Object && Arc::ptr_eq(&stored, &event.object);
            let known = event.known_line(event_type, &self.kind.api_version());
            if let Some(line) = known.filter(|_| shared) {
                lines.push(line);
                continue;
            }
            let stored = shown(&self.api, &self.kind, &stored).await?;
            let line = self.line_of(event_type, &stored);
            if shared {
                event.keep_line(event_type, &self.kind.api_version(), &line);
            }
            lines.push(line);
        }
        Ok(lines)
    }

    /// How the watch sees a change, if it does.
    fn line(&mut self, event: &Event) -> Option<Bytes> {
        let (event_type, stored) = self.sees(event)?;
        Some(match self.form {
            // What left the selection is another object than the event's.
            Form::Object if Arc::ptr_eq(&stored, &event.object) => {
                event.line(event_type, &self.kind.api_version())
            }
            _ => self.line_of(event_type, &stored),
        })
    }

    /// As what the watch sees a change, if it does, and the object it shows.
    fn sees(&self, event: &Event) -> Option<(EventType, Arc<Stored>)> {
        let matches = |stored: &Arc<Stored>| self.selection.matches(&stored.value);
        let now = matches(&event.object);
        let before = event.previous.as_ref().is_some_and(matches);
        let event_type = match (event.event_type, before, now) {
            (EventType::Deleted, true, _) => EventType::Deleted,
            (EventType::Deleted, false, _) | (_, false, false) => return None,
            (_, false, true) => EventType::Added,
            (_, true, true) => EventType::Modified,
            (_, true, false) => {
                // What left the selection is shown as it was, with the revision of the change.
                let previous = event.previous.as_ref()?;
                let mut value = (*previous.value).clone();
                value["metadata"]["resourceVersion"] = event.revision().to_string().into();
                return Some((EventType::Deleted, Arc::new(Stored::new(value, event.revision()))));
            }
        };
        Some((event_type, event.object.clone()))
    }

    fn line_of(&mut self, event_type: EventType, stored: &Stored) -> Bytes {
        let object = match self.form {
            Form::Object => return line(event_type, stored, &self.kind.api_version()),
            Form::Metadata => partial(&stored.value),
            Form::Table => {
                let columns = std::mem::take(&mut self.columns);
                let metadata = json!({"resourceVersion": stored.revision.to_string()});
                let objects = [stored.value_as(&self.kind.api_version())];
                Tables::new(&self.api, &self.request, &self.kind).table(&objects, columns, &metadata)
            }
        };
        json_line(&json!({"type": event_type.name(), "object": object}))
    }

    /// A bookmark: all changes up to the revision have been sent.
    fn bookmark(&self, revision: u64, end_of_initial: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if end_of_initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.form {
            Form::Object => {
                json!({"kind": self.kind.kind, "apiVersion": self.kind.api_version(), "metadata": metadata})
            }
            Form::Metadata => partial(&json!({"metadata": metadata})),
            Form::Table => json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
                "columnDefinitions": [], "rows": []}),
        };
        json_line(&json!({"type": "BOOKMARK", "object": object}))
    }
}

fn error_line(status: &Status) -> Bytes {
    json_line(&json!({"type": "ERROR", "object": status.to_json()}))
}

fn json_line(value: &Value) -> Bytes {
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    Bytes::from(line)
}
