//! A guest for tests: `init` does what the configuration's key `init` says, and the handler answers what it saw there.

use std::sync::atomic::{AtomicU32, Ordering};

use hearth_guest::{Error, Model, Prepared, Request, Response, Result, Tensor, context, handler, info, init};

/// What `init` saw: `ok`, or the kind and message of an error.
static SEEN: Prepared<String> = Prepared::new();

/// How often this instance counted; `init` leaves 1.
static COUNT: AtomicU32 = AtomicU32::new(0);

#[init]
fn prepare() -> Result<()> {
    COUNT.fetch_add(1, Ordering::Relaxed);
    let case = context::config("init").unwrap_or_else(|| "ok".to_owned());
    let seen = match case.as_str() {
        "ok" => Ok("ok".to_owned()),
        "log" => {
            info!("init was here");
            Ok("logged".to_owned())
        }
        "config" => Ok(format!("greeting {:?}", context::config("greeting"))),
        "secret" => context::secret("token").map(|value| format!("secret {value:?}")),
        "tensor" => Tensor::from_slice(&[1], &[1f32]).map(|_| "made a tensor".to_owned()),
        "text" => Tensor::text(&[1], &["text"]).map(|_| "made a text tensor".to_owned()),
        "operator" => Tensor::decode_image(b"no image").map(|_| "ran an operator".to_owned()),
        "signature" => Model::open("magika").map(|model| format!("{} inputs", model.signature().inputs.len())),
        "asset" => asset().map(|bytes| format!("{} bytes", bytes.len())),
        "infer" => Model::open("magika")?.infer([]).map(|_| "ran a model".to_owned()),
        "submit" => Model::open("magika")?.submit([]).map(|_| "submitted a run".to_owned()),
        "error" => return Err(Error::invalid_argument("init was told to fail")),
        "panic" => panic!("init was told to panic"),
        "loop" => loop {
            std::hint::spin_loop();
        },
        other => return Err(Error::invalid_argument(format!("init-probe has no `{other}`"))),
    };
    SEEN.set(seen.unwrap_or_else(|error| format!("{error:?}")))
}

fn asset() -> Result<Vec<u8>> {
    Model::open("magika")?.asset("config.min.json")
}

/// `/count` counts on from what `init` left; anything else answers what `init` saw.
#[handler(models = ["magika"], config = ["init", "greeting"], secrets = ["token"])]
fn probe(request: Request) -> Result<Response> {
    match request.path() {
        "/count" => Ok(Response::text((COUNT.fetch_add(1, Ordering::Relaxed) + 1).to_string())),
        // Secrets work here, where the memory is the request's own.
        "/secret" => Ok(Response::text(format!("{:?}", context::secret("token")?))),
        _ => Ok(Response::text(SEEN.get()?.as_str())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearth_guest_testing::{TestHost, TestModel};

    #[test]
    fn init_sees_what_it_may() {
        for (case, wanted) in [
            ("ok", "ok"),
            ("log", "logged"),
            ("config", "greeting Some(\"hello\")"),
            ("secret", "permission-denied"),
            ("tensor", "permission-denied"),
            ("text", "permission-denied"),
            ("operator", "permission-denied"),
            ("signature", "0 inputs"),
            ("asset", "3 bytes"),
            ("infer", "permission-denied"),
            ("submit", "permission-denied"),
        ] {
            let test = move || {
                let model = TestModel::new("magika").asset("config.min.json", "abc");
                let host = TestHost::new().model(model).config("init", case).config("greeting", "hello");
                let host = host.secret("token", "hidden");
                host.init(prepare).unwrap();
                let reply = host.call(probe, Request::new("GET", "/")).unwrap();
                assert!(reply.text().starts_with(wanted), "{case}: {}", reply.text());
                assert_eq!(host.call(probe, Request::new("GET", "/secret")).unwrap().text(), "Some(\"hidden\")");
            };
            // What is prepared belongs to a thread.
            std::thread::spawn(test).join().unwrap();
        }
        assert_eq!(TestHost::new().config("init", "error").init(prepare).unwrap_err().kind(), "invalid-argument");
    }
}
