//! Components that are small to send and expensive to read or compile; it never compiles one.

/// A component whose one function has that many locals and that many nested loops, each of which changes one. A compiler has to
/// know each local in each loop.
pub fn compile_bomb(locals: usize, loops: usize) -> Vec<u8> {
    let mut body = [&[1], leb(locals).as_slice(), &[0x7f]].concat();
    for index in 0..loops {
        body.extend([0x03, 0x40, 0x20]);
        body.extend(leb(1 + index % locals));
        body.extend([0x41, 0x01, 0x6a, 0x21]);
        body.extend(leb(1 + index * 7 % locals));
    }
    body.extend([0x20, 0x00, 0x0d, 0x00, 0x0b].repeat(loops));
    body.push(0x0b);
    let function = [leb(1), leb(body.len()), body].concat();
    let types = section(1, &[1, 0x60, 1, 0x7f, 0]);
    let module = [b"\0asm\x01\0\0\0", types.as_slice(), &section(3, &[1, 0]), &section(10, &function)].concat();
    [b"\0asm\x0d\0\x01\0", section(1, &module).as_slice()].concat()
}

/// The same in a size that takes any compiler minutes.
pub fn endless_compilation() -> Vec<u8> {
    compile_bomb(2_000, 3_000)
}

/// A component with that many exports, all of one function.
pub fn many_exports(count: usize) -> Vec<u8> {
    let exports: String = (0..count).map(|index| format!(r#"(export "e{index}" (func $f))"#)).collect();
    wat::parse_str(format!(r#"(component (import "f" (func $f)) {exports})"#)).unwrap()
}

/// A custom section of a name, which may follow any component.
pub fn custom_section(name: &str, content: &[u8]) -> Vec<u8> {
    section(0, &[leb(name.len()).as_slice(), name.as_bytes(), content].concat())
}

fn section(kind: u8, content: &[u8]) -> Vec<u8> {
    [&[kind], leb(content.len()).as_slice(), content].concat()
}

/// A number as LEB128.
fn leb(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let rest = number >> 7;
        bytes.push((number & 0x7f) as u8 | if rest > 0 { 0x80 } else { 0 });
        if rest == 0 {
            return bytes;
        }
        number = rest;
    }
}
