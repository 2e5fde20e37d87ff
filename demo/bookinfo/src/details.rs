//! `details`: facts about a book.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;

pub(crate) fn router() -> Router {
    Router::new().route("/details/{book}", get(details))
}

async fn details(Path(book): Path<String>) -> Response {
    let Ok(book) = book.parse::<u32>() else {
        return (StatusCode::BAD_REQUEST, Json(json!({"error": "please provide numeric product ID"})))
            .into_response();
    };
    Json(json!({
        "id": book,
        "author": "William Shakespeare",
        "year": 1595,
        "type": "paperback",
        "pages": 200,
        "publisher": "PublisherA",
        "language": "English",
        "ISBN-10": "1234567890",
        "ISBN-13": "123-1234567890",
    }))
    .into_response()
}
