//! The attributes `#[handler]`, `#[pipeline]` and `#[init]`: they export functions of a component and embed its requested grants.
//! They never read a function's body.

use proc_macro::{Delimiter, Group, Ident, Literal, Span, TokenStream, TokenTree};

mod manifest;

use manifest::Manifest;

/// Why an attribute cannot be expanded, and the place of the error.
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
/// The attribute lists the handler's requested grants, which are shown as `grants_requested` on upload: `models`, `config`
/// (keys), `secrets` (names) and `hosts`. They grant nothing by themselves.
///
/// ```ignore
/// #[handler(models = ["resnet50"], config = ["threshold"])]
/// fn classify(request: Request) -> Result<Response> { … }
/// ```
#[proc_macro_attribute]
pub fn handler(attributes: TokenStream, item: TokenStream) -> TokenStream {
    let expanded = Manifest::parse(attributes)
        .and_then(|manifest| name_of(&item, &FUNCTION, "#[handler]").map(|name| (manifest, name)))
        .map(|(manifest, name)| expand(HANDLER, &name).into_iter().chain(embed(&manifest)).collect());
    followed_by(item, expanded)
}

/// Makes a module with two functions the component's two halves, between which the host runs one model. Once per component,
/// instead of `#[handler]`.
///
/// `preprocess` takes a `Request` and gives an `Outcome`: a `Call` that the host runs, or a `Response` at once. It may give any
/// of the three, or a `Result` of one. `postprocess` takes the model's `Outputs` and what the call kept (`Kept`), and gives a
/// `Response` or a `Result<Response>`. Both must be visible outside the module. Each runs in its own instance: nothing else
/// passes from one to the other. `postprocess` does not run if the model's run failed.
///
/// The attribute's lists are those of `#[handler]`.
///
/// ```ignore
/// #[pipeline(models = ["magika"])]
/// mod file_type {
///     pub fn preprocess(request: Request) -> Result<Outcome> { … Ok(Call::new("magika").input("bytes", tokens).into()) }
///     pub fn postprocess(outputs: Outputs, kept: Kept) -> Result<Response> { … }
/// }
/// ```
///
/// The module must be inline. Halves in other files are imported into it by name:
/// `#[pipeline] mod halves { pub use crate::before::preprocess; pub use crate::after::postprocess; }`.
#[proc_macro_attribute]
pub fn pipeline(attributes: TokenStream, item: TokenStream) -> TokenStream {
    let expanded = Manifest::parse(attributes)
        .and_then(|manifest| name_of(&item, &MODULE, "#[pipeline]").map(|name| (manifest, name)))
        .map(|(manifest, name)| expand(PIPELINE, &name).into_iter().chain(embed(&manifest)).collect());
    followed_by(item, expanded)
}

/// Makes a function run once for each deployment, before the handler; every instance starts from the memory it left. Used
/// together with `#[handler]` or `#[pipeline]`, at most once per component.
///
/// The function takes nothing and gives nothing or a `Result<()>`. Store what it makes in `hearth_guest::Prepared`. The
/// documentation of `hearth_guest` says which calls to the host it may make, and how it affects random numbers.
///
/// ```ignore
/// #[init]
/// fn prepare() -> Result<()> { VOCABULARY.set(Vocabulary::parse(&Model::open("minilm")?.asset("vocab.txt")?)?) }
/// ```
#[proc_macro_attribute]
pub fn init(attributes: TokenStream, item: TokenStream) -> TokenStream {
    let expanded = match attributes.into_iter().next() {
        Some(token) => {
            Err(Refusal::at(token.span(), "#[init] takes nothing; grants stand in #[handler] or #[pipeline]"))
        }
        None => name_of(&item, &FUNCTION, "#[init]").map(|name| expand(INIT, &name)),
    };
    followed_by(item, expanded)
}

const HANDLER: &str = r#"
#[allow(unsafe_code, missing_docs, unreachable_pub)]
const _: () = {
    struct Handler;
    impl ::hearth_guest::bindings::Guest for Handler {
        fn handle(
            request: ::hearth_guest::bindings::Request,
        ) -> ::core::result::Result<::hearth_guest::bindings::Response, ::hearth_guest::bindings::Error> {
            ::hearth_guest::export::answer(ITEM, request)
        }
    }
    ::hearth_guest::bindings::export!(Handler with_types_in ::hearth_guest::bindings);
};
"#;

const INIT: &str = r#"
#[allow(unsafe_code, missing_docs, unreachable_pub)]
const _: () = {
    struct Init;
    impl ::hearth_guest::bindings::init::Guest for Init {
        fn init() -> ::core::result::Result<(), ::hearth_guest::bindings::Error> {
            ::hearth_guest::export::initialise(ITEM)
        }
    }
    ::hearth_guest::bindings::init::export!(Init with_types_in ::hearth_guest::bindings::init);
};
"#;

const PIPELINE: &str = r#"
#[cfg(target_arch = "wasm32")]
#[allow(unsafe_code, missing_docs, unreachable_pub, clippy::all, clippy::undocumented_unsafe_blocks)]
const _: () = {
    mod bindings {
        ::hearth_guest::bindings::generate!({
            inline: CONTRACT,
            world: "hearth:inference/pipeline",
            with: {
                "hearth:inference/errors@0.2.0": ::hearth_guest::bindings::hearth::inference::errors,
                "hearth:inference/tensors@0.2.0": ::hearth_guest::bindings::hearth::inference::tensors,
                "hearth:inference/operators@0.2.0": ::hearth_guest::bindings::hearth::inference::operators,
                "hearth:inference/models@0.2.0": ::hearth_guest::bindings::hearth::inference::models,
                "hearth:inference/context@0.2.0": ::hearth_guest::bindings::hearth::inference::context,
                "hearth:inference/http-types@0.2.0": ::hearth_guest::bindings::hearth::inference::http_types,
            },
            ownership: Borrowing { duplicate_if_necessary: false },
            runtime_path: "::hearth_guest::bindings::rt",
        });
        pub(super) use self::hearth::inference::pipelines::Call;
    }
    use ::hearth_guest::export;
    struct Pipeline;
    impl bindings::Guest for Pipeline {
        fn preprocess(request: bindings::Request) -> ::core::result::Result<bindings::Outcome, bindings::Error> {
            match export::preprocess(ITEM::preprocess, request)? {
                export::BareOutcome::Respond(response) => ::core::result::Result::Ok(bindings::Outcome::Respond(response)),
                export::BareOutcome::Run(call) => {
                    let export::BareCall { model, inputs, state, keep } = call;
                    ::core::result::Result::Ok(bindings::Outcome::Run(bindings::Call { model, inputs, state, keep }))
                }
            }
        }
        fn postprocess(
            outputs: ::std::vec::Vec<bindings::NamedTensor>,
            state: ::std::vec::Vec<u8>,
            keep: ::std::vec::Vec<bindings::Tensor>,
        ) -> ::core::result::Result<bindings::Response, bindings::Error> {
            export::postprocess(ITEM::postprocess, outputs, state, keep)
        }
    }
    bindings::export!(Pipeline with_types_in bindings);
};
#[cfg(not(target_arch = "wasm32"))]
#[allow(dead_code)]
const _: fn() = || ::hearth_guest::export::check_halves(ITEM::preprocess, ITEM::postprocess);
"#;

/// The files of the contract. They are joined into one text, which names its package once.
const CONTRACT: [&str; 8] = [
    include_str!("../../../../wit/errors.wit"),
    include_str!("../../../../wit/tensors.wit"),
    include_str!("../../../../wit/operators.wit"),
    include_str!("../../../../wit/models.wit"),
    include_str!("../../../../wit/context.wit"),
    include_str!("../../../../wit/http-types.wit"),
    include_str!("../../../../wit/pipelines.wit"),
    include_str!("../../../../wit/worlds.wit"),
];

fn contract() -> String {
    let package = CONTRACT[0].lines().find(|line| line.starts_with("package ")).unwrap_or_default();
    let rest = CONTRACT.iter().flat_map(|file| file.lines()).filter(|line| !line.starts_with("package "));
    [package].into_iter().chain(rest).collect::<Vec<_>>().join("\n")
}

const MANIFEST: &str = r#"
#[allow(unsafe_code)]
const _: () = {
    #[cfg(target_arch = "wasm32")]
    #[used]
    #[unsafe(link_section = "hearth:manifest")]
    static MANIFEST: [u8; MANIFEST_LENGTH] = *MANIFEST_BYTES;
};
"#;

/// The unchanged item, followed by the expansion or the error.
fn followed_by(mut item: TokenStream, expanded: Result<TokenStream, Refusal>) -> TokenStream {
    item.extend(expanded.unwrap_or_else(Refusal::into_compile_error));
    item
}

fn expand(template: &str, item: &Ident) -> TokenStream {
    let template: TokenStream = template.parse().unwrap_or_default();
    replace(template, &|ident| match ident.to_string().as_str() {
        "ITEM" => Some(TokenTree::Ident(item.clone())),
        "CONTRACT" => Some(TokenTree::Literal(Literal::string(&contract()))),
        _ => None,
    })
}

fn embed(manifest: &Manifest) -> TokenStream {
    let json = manifest.json();
    let template: TokenStream = MANIFEST.parse().unwrap_or_default();
    replace(template, &|ident| match ident.to_string().as_str() {
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

/// A kind of item that an attribute is put on.
struct Kind {
    keyword: &'static str,
    others: &'static [&'static str],
    name: &'static str,
}

const FUNCTION: Kind =
    Kind { keyword: "fn", others: &["struct", "enum", "mod", "impl", "trait", "static"], name: "function" };
const MODULE: Kind = Kind {
    keyword: "mod",
    others: &["struct", "enum", "fn", "impl", "trait", "static"],
    name: "module with the functions `preprocess` and `postprocess`",
};

/// The name of the item, which must be of the kind for `attribute`.
fn name_of(item: &TokenStream, kind: &Kind, attribute: &str) -> Result<Ident, Refusal> {
    let mut tokens = item.clone().into_iter();
    while let Some(token) = tokens.next() {
        let TokenTree::Ident(word) = token else { continue };
        let text = word.to_string();
        if text == kind.keyword {
            if let Some(TokenTree::Ident(name)) = tokens.next() {
                return Ok(name);
            }
        } else if text == "async" {
            return Err(Refusal::at(word.span(), format!("{attribute} is for ordinary functions, not async ones")));
        } else if kind.others.contains(&text.as_str()) {
            break;
        }
    }
    Err(Refusal::at(Span::call_site(), format!("{attribute} is for a {}", kind.name)))
}
