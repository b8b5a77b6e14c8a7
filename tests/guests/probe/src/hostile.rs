//! What must disturb nobody: loops, memory bombs, traps, forged handles.

use hearth_guest::bindings::hearth::inference::tensors;
use hearth_guest::{Error, Request, Response, Result};
use std::hint::black_box;

/// Runs one case below `/hostile/`.
pub fn run(case: &str, request: &Request) -> Result<Response> {
    match case {
        // Never ends and calls nothing.
        "loop" => loop {
            black_box(());
        },
        // The same, after a line in the log.
        "log-and-loop" => {
            hearth_guest::info!("before the loop");
            loop {
                black_box(());
            }
        }
        // Never ends and calls the host all the time.
        "host-loop" => loop {
            black_box(hearth_guest::context::remaining());
        },
        // The same, with calls that cost the host something.
        "log-loop" => loop {
            hearth_guest::context::log(hearth_guest::context::LogLevel::Info, "again", &[("and", "again")]);
        },
        "open-loop" => loop {
            black_box(hearth_guest::Model::open("nothing").is_ok());
        },
        "tensor-loop" => loop {
            black_box(hearth_guest::Tensor::from_slice(&[1024], &[0u8; 1024])?);
        },
        // The host would have to copy a name of 64 MiB.
        "long-name" => {
            let name = "n".repeat(64 << 20);
            loop {
                black_box(hearth_guest::Model::open(&name).is_ok());
            }
        }
        // Takes and touches memory until it is refused, which aborts.
        "memory" => {
            let mut blocks: Vec<Vec<u8>> = Vec::new();
            loop {
                blocks.push(black_box(vec![1; 1 << 20]));
            }
        }
        // The same, but takes the refusal as an answer: how many MiB it got.
        "memory-polite" => {
            let mut blocks: Vec<Vec<u8>> = Vec::new();
            loop {
                let mut block = Vec::new();
                if block.try_reserve_exact(1 << 20).is_err() {
                    break;
                }
                block.resize(1 << 20, 1);
                blocks.push(black_box(block));
            }
            let taken = blocks.len();
            drop(blocks);
            Ok(Response::text(taken.to_string()))
        }
        // `/hostile/panic?message=text`
        "panic" => panic!("{}", request.parameter("message").unwrap_or_else(|| "the probe panics".into())),
        // Runs out of stack.
        "recursion" => Ok(Response::text(deeper(1).to_string())),
        // Traps without a panic.
        "abort" => std::process::abort(),
        // Uses a handle that it was never given.
        "forged-handle" => {
            // SAFETY: the handle is made up on purpose; the host traps at its first use, so nothing is made of it.
            #[allow(unsafe_code)]
            let tensor = unsafe { tensors::Tensor::from_handle(0x00ab_cdef) };
            Ok(Response::text(tensor.device()))
        }
        // Uses a handle after it was dropped.
        "dropped-handle" => {
            let kept = tensors::Tensor::create(tensors::Dtype::U8, &[1], &[1])
                .map_err(|error| Error::internal(error.message))?;
            // SAFETY: a second owner of the handle on purpose; the host traps when it is used after the first one is gone.
            #[allow(unsafe_code)]
            let stale = unsafe { tensors::Tensor::from_handle(kept.handle()) };
            drop(kept);
            Ok(Response::text(stale.device()))
        }
        _ => Err(Error::not_found(format!("the probe has no hostile `{case}`"))),
    }
}

#[allow(unconditional_recursion)]
fn deeper(depth: u64) -> u64 {
    let room = black_box([depth; 64]);
    deeper(depth + 1) + room[black_box(3)]
}
