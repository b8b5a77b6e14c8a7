//! The attribute `#[handler]`: exports a function as the component's handler and embeds what it wishes to be granted. It
//! never looks into the function's body.

use proc_macro::{Delimiter, Group, Ident, Literal, Span, TokenStream, TokenTree};

mod manifest;

use manifest::Manifest;

/// Why an attribute cannot be expanded, and where.
struct Refusal {
    span: Span,
    message: String,
}

impl Refusal {
    fn at(span: Span, message: impl Into<String>) -> Refusal {
        Refusal { span, message: message.into() }
    }

    fn into_compile_error(self) -> TokenStream {
        let message = TokenTree::Literal(Literal::string(&self.message));
        let mut call: TokenStream = "::core::compile_error!".parse().unwrap_or_default();
        call.extend([
            TokenTree::Group(Group::new(Delimiter::Parenthesis, message.into())),
            TokenTree::Punct(proc_macro::Punct::new(';', proc_macro::Spacing::Alone)),
        ]);
        spanned(call, self.span)
    }
}

/// Makes a function the component's handler.
///
/// The function takes a `hearth_guest::Request` and gives a `Response` or a `Result<Response>`. Once per component.
///
/// The attribute's lists say what the handler wishes to be granted, and are shown as `grants_requested` on upload:
/// `models`, `config` (keys), `secrets` (names) and `hosts`. They grant nothing by themselves.
///
/// ```ignore
/// #[handler(models = ["resnet50"], config = ["threshold"])]
/// fn classify(request: Request) -> Result<Response> { … }
/// ```
#[proc_macro_attribute]
pub fn handler(attributes: TokenStream, item: TokenStream) -> TokenStream {
    let expanded = Manifest::parse(attributes)
        .and_then(|manifest| function_name(&item).map(|name| (manifest, name)))
        .map(|(manifest, name)| export(&manifest, &name));
    let mut output = item;
    output.extend(expanded.unwrap_or_else(Refusal::into_compile_error));
    output
}

const EXPORT: &str = r#"
#[allow(unsafe_code, missing_docs, unreachable_pub)]
const _: () = {
    struct Handler;
    impl ::hearth_guest::bindings::Guest for Handler {
        fn handle(
            request: ::hearth_guest::bindings::Request,
        ) -> ::core::result::Result<::hearth_guest::bindings::Response, ::hearth_guest::bindings::Error> {
            ::hearth_guest::export::answer(FUNCTION, request)
        }
    }
    ::hearth_guest::bindings::export!(Handler with_types_in ::hearth_guest::bindings);
    #[cfg(target_arch = "wasm32")]
    #[used]
    #[unsafe(link_section = "hearth:manifest")]
    static MANIFEST: [u8; MANIFEST_LENGTH] = *MANIFEST_BYTES;
};
"#;

fn export(manifest: &Manifest, function: &Ident) -> TokenStream {
    let json = manifest.json();
    let template: TokenStream = EXPORT.parse().unwrap_or_default();
    replace(template, &|ident| match ident.to_string().as_str() {
        "FUNCTION" => Some(TokenTree::Ident(function.clone())),
        "MANIFEST_LENGTH" => Some(TokenTree::Literal(Literal::usize_unsuffixed(json.len()))),
        "MANIFEST_BYTES" => Some(TokenTree::Literal(Literal::byte_string(json.as_bytes()))),
        _ => None,
    })
}

fn replace(tokens: TokenStream, with: &dyn Fn(&Ident) -> Option<TokenTree>) -> TokenStream {
    tokens
        .into_iter()
        .map(|token| match token {
            TokenTree::Ident(ident) => with(&ident).unwrap_or(TokenTree::Ident(ident)),
            TokenTree::Group(group) => TokenTree::Group(Group::new(group.delimiter(), replace(group.stream(), with))),
            other => other,
        })
        .collect()
}

fn spanned(tokens: TokenStream, span: Span) -> TokenStream {
    tokens
        .into_iter()
        .map(|mut token| {
            token.set_span(span);
            token
        })
        .collect()
}

fn function_name(item: &TokenStream) -> Result<Ident, Refusal> {
    let mut tokens = item.clone().into_iter();
    while let Some(token) = tokens.next() {
        let TokenTree::Ident(word) = token else { continue };
        match word.to_string().as_str() {
            "fn" => {
                if let Some(TokenTree::Ident(name)) = tokens.next() {
                    return Ok(name);
                }
            }
            "async" => return Err(Refusal::at(word.span(), "a handler is an ordinary function, not an async one")),
            "struct" | "enum" | "mod" | "impl" | "trait" => break,
            _ => {}
        }
    }
    Err(Refusal::at(Span::call_site(), "#[handler] goes on a function"))
}
