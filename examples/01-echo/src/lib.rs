//! The smallest useful handler: answers with the body it was sent.

use hearth_guest::{Request, Response, handler};

#[handler]
fn echo(request: Request) -> Response {
    if request.method() == "GET" {
        return Response::text("hello from hearth\n");
    }
    let content_type = request.header_bytes("content-type").unwrap_or(b"application/octet-stream").to_vec();
    Response::new(200).header("content-type", content_type).body(request.into_body())
}
