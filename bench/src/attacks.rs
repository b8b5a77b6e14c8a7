//! Repeats what hostile guests and clients do until it is stopped; it never measures anything.

use self::Does::{Call, Component, Model, TakeNothing};
use anyhow::{Context, Result, ensure};
use hearth_crafted as crafted;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Bytes sent in one call. For more, Linux may keep a core that the server needs while it sends them, which a client on another
/// machine cannot cause.
const SENT_BYTES: usize = 64 << 10;

/// An attack, and the status that the server should answer: another status means that the attack did not work.
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    /// How many threads repeat it at once.
    pub(crate) at_once: usize,
    does: Does,
    /// The status of each answer. There may be no answer before the attack is over.
    status: u16,
}

enum Does {
    /// Calls a function.
    Call(&'static str),
    /// Calls a function, and never reads its answer.
    TakeNothing(&'static str),
    /// Uploads a component as a function of that name, with a new number in it each time, so that nothing of it is cached.
    Component(&'static str, fn(&Material) -> &[u8]),
    /// Uploads a model of that name.
    Model(&'static str, fn(&Material) -> &[u8]),
}

/// The bytes that uploads are made from.
pub(crate) struct Material {
    echo: Vec<u8>,
    padded: Vec<u8>,
    tar_bomb: Vec<u8>,
    compile_bomb: Vec<u8>,
    many_exports: Vec<u8>,
    endless_init: Vec<u8>,
    panicking_init: Vec<u8>,
}

const fn call(path: &'static str, status: u16) -> Attack {
    Attack { name: path, at_once: 1, does: Call(path), status }
}

const fn upload(name: &'static str, does: Does, status: u16) -> Attack {
    Attack { name, at_once: 1, does, status }
}

/// All attacks. The first is well-behaved, and so is the first upload: they show what many requests cost a neighbour without
/// hostility.
pub(crate) const ATTACKS: [Attack; 30] = [
    call("echo", 200),
    call("probe/hostile/loop", 504),
    Attack { at_once: 2, ..call("probe/hostile/loop", 504) },
    call("probe/hostile/host-loop", 504),
    call("probe/hostile/log-loop", 504),
    call("probe/hostile/open-loop", 504),
    call("probe/hostile/tensor-loop", 504),
    call("probe/hostile/memory", 502),
    call("table", 200),
    call("probe/hostile/recursion", 502),
    call("probe/hostile/panic", 502),
    call("probe/hostile/forged-handle", 502),
    call("probe/hostile/long-name", 504),
    call("probe/tensor/many?count=10000", 200),
    call("probe/tensor/views?count=10000", 429),
    call("probe/tensor/overflow", 413),
    call("probe/tensor/huge", 429),
    call("probe/tensor/range", 422),
    call("probe/tensor/matmul-bomb", 504),
    call("probe/tensor/sort-bomb", 504),
    call("probe/tensor/resize-bomb", 504),
    call("probe/tensor/image-bomb", 413),
    Attack { name: "answers not taken", at_once: 20, does: TakeNothing("probe/big?bytes=30000000"), status: 200 },
    upload("upload: echo", Component("echo-again", |material| &material.echo), 201),
    upload("upload: compile bomb", Component("a", |material| &material.compile_bomb), 422),
    upload("upload: 10,000 exports", Component("a", |material| &material.many_exports), 422),
    upload("upload: section of 100 MB", Component("padded", |material| &material.padded), 201),
    upload("upload: endless init", Component("a", |material| &material.endless_init), 422),
    upload("upload: panicking init", Component("a", |material| &material.panicking_init), 422),
    upload("upload: tar bomb", Model("a", |material| &material.tar_bomb), 422),
];

impl Material {
    /// Makes all of it from the component of 01-echo.
    pub(crate) fn new(echo: Vec<u8>) -> Result<Material> {
        let (data, _) = crafted::answer("");
        let init = |code: &str| {
            let items = format!(r#"{data} (func (export "init") (result i32) {code})"#);
            crafted::component("handler-with-init", &crafted::module(&items, "unreachable"))
        };
        Ok(Material {
            padded: [echo.as_slice(), &crafted::custom_section("junk", &vec![7; 100_000_000])].concat(),
            echo,
            tar_bomb: tar_bomb()?,
            compile_bomb: crafted::endless_compilation(),
            many_exports: crafted::many_exports(10_000),
            endless_init: init("(loop $more (br $more)) unreachable"),
            panicking_init: init("unreachable"),
        })
    }

    /// A handler that grows its table until that is refused, and then answers: the function `table`.
    pub(crate) fn table() -> Vec<u8> {
        let (data, answer) = crafted::answer("refused");
        crafted::handler(
            &format!("{data} (table $t 1 funcref)"),
            &format!(
                "(loop $more (br_if $more (i32.ne (table.grow $t (ref.null func) (i32.const 1000)) (i32.const -1)))) {answer}"
            ),
        )
    }
}

/// A compressed archive of 2 MB whose only file has 2 GB of zeros.
fn tar_bomb() -> Result<Vec<u8>> {
    const MEGABYTES: u64 = 2_000;
    let mut header = tar::Header::new_gnu();
    header.set_size(MEGABYTES << 20);
    header.set_mode(0o644);
    header.set_path("model.onnx")?;
    header.set_cksum();
    let mut squeezed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    squeezed.write_all(header.as_bytes())?;
    for _ in 0..MEGABYTES {
        squeezed.write_all(&[0; 1 << 20])?;
    }
    squeezed.write_all(&[0; 1024])?;
    Ok(squeezed.finish()?)
}

/// Sends a request with a body. If it is refused before its end, the answer shows that.
fn put(stream: &mut TcpStream, head: &str, body: &[&[u8]]) -> Result<()> {
    let length: usize = body.iter().map(|part| part.len()).sum();
    write!(stream, "PUT {head}content-length: {length}\r\n\r\n")?;
    let _ = body.iter().flat_map(|part| part.chunks(SENT_BYTES)).try_for_each(|part| stream.write_all(part));
    Ok(())
}

/// Repeats an attack until it is ended.
pub(crate) struct Attacker {
    over: Arc<AtomicBool>,
    connection: Arc<Mutex<Option<TcpStream>>>,
    thread: JoinHandle<Result<()>>,
}

impl Attacker {
    /// Starts repeating an attack on the server at an address.
    pub(crate) fn start(address: SocketAddr, attack: &'static Attack, material: Arc<Material>) -> Attacker {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let (over, connection) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(None)));
        let thread = {
            let (over, connection) = (over.clone(), connection.clone());
            std::thread::spawn(move || {
                loop {
                    // Not the numbers of an earlier run, some of which the server may have cached.
                    let number = NEXT.fetch_add(1, Ordering::Relaxed);
                    let said = attack.once(address, (&over, &connection), &material, number);
                    // A request that was cut off at the end of the attack does not count.
                    if over.load(Ordering::Acquire) {
                        break;
                    }
                    let status = said?;
                    let wanted = attack.status;
                    ensure!(status == wanted, "the attack '{}' was answered with {status}, not {wanted}", attack.name);
                }
                Ok(())
            })
        };
        Attacker { over, connection, thread }
    }

    /// Ends the attack. Errors: it did not work.
    pub(crate) fn end(self) -> Result<()> {
        self.over.store(true, Ordering::Release);
        if let Some(stream) = self.connection.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // It may be closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.thread.join().expect("an attacker does not panic")
    }
}

impl Attack {
    /// Whether the server starts idle-priority processes for it. When a real-time thread wakes for a moment on a core, Linux may
    /// continue with such a process there instead of the server's thread, so the watchers would delay the neighbour.
    pub(crate) fn starts_children(&self) -> bool {
        matches!(self.does, Component(..) | Model(..))
    }

    /// Runs the attack once, and gives the status of the answer.
    fn once(
        &self,
        address: SocketAddr,
        (over, connection): (&AtomicBool, &Mutex<Option<TcpStream>>),
        material: &Material,
        number: u64,
    ) -> Result<u16> {
        let mut stream = TcpStream::connect(address)?;
        *connection.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream.try_clone()?);
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        let head = format!("HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
        match &self.does {
            Call(path) | TakeNothing(path) => write!(stream, "GET /fn/{path} {head}\r\n")?,
            Component(name, bytes) => {
                let number = crafted::custom_section("number", &number.to_le_bytes());
                put(&mut stream, &format!("/v1/functions/{name} {head}"), &[bytes(material), &number])?;
            }
            Model(name, bytes) => put(&mut stream, &format!("/v1/models/{name} {head}"), &[bytes(material)])?,
        }
        let mut start = [0; 12];
        stream.read_exact(&mut start)?;
        if let TakeNothing(_) = self.does {
            while !over.load(Ordering::Acquire) {
                std::thread::sleep(Duration::from_millis(10));
            }
        } else {
            std::io::copy(&mut stream, &mut std::io::sink())?;
        }
        let status = std::str::from_utf8(&start)?.rsplit(' ').next().unwrap_or_default();
        status.parse().with_context(|| format!("no status: {start:?}"))
    }
}
