//! `#[derive(Explain)]`: what an error says beside its text stands at the variant that says it.
//!
//! ```ignore
//! #[derive(Debug, thiserror::Error, Explain)]
//! pub enum Error {
//!     #[error("`{path}` is empty", path = path.display())]
//!     #[explain(code = "weights-empty", class = Input, hint("download or save the file again"))]
//!     Empty { path: PathBuf },
//!     #[error(transparent)]
//!     #[explain(transparent)]
//!     File(#[from] fsx::Error),
//! }
//! ```
//!
//! | | |
//! |---|---|
//! | `code = …` | a `&'static str`; needed |
//! | `class = …` | a variant of `Class` by its bare name, or an expression; needed |
//! | `hint(…)` | one hint, written as for `format!` |
//! | `hints = …` | an expression with any number of them, of what becomes a `String` |
//! | `details = …` | an expression of type `Option<serde_json::Value>` |
//! | `transparent`, `transparent = field` | all of these come from the only field, or the named one, unless they are given too |
//!
//! The fields are in scope by reference under their names, those of tuples as `_0`, `_1`; a struct has the attribute itself. The code
//! that is made names `crate::fault`, so that this derive is of use to trtmut alone.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote};
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream};
use syn::spanned::Spanned;
use syn::{Attribute, Data, DeriveInput, Error, Expr, Fields, Ident, Result, Token};

/// Implements `crate::fault::Explain`; the top of this crate has the attribute's words.
#[proc_macro_derive(Explain, attributes(explain))]
pub fn explain(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let made = syn::parse(input).and_then(|input| derive(&input));
    made.unwrap_or_else(Error::into_compile_error).into()
}

/// What is said of one variant: an expression each.
struct Said {
    code: TokenStream,
    class: TokenStream,
    details: TokenStream,
    hints: TokenStream,
}

/// One word of the attribute.
enum Word {
    Transparent(Option<Ident>),
    Code(Expr),
    Class(Expr),
    Details(Expr),
    Hint(TokenStream),
    Hints(Expr),
}

impl Parse for Word {
    fn parse(input: ParseStream<'_>) -> Result<Word> {
        let word = input.call(Ident::parse_any)?;
        if word == "hint" {
            let format;
            syn::parenthesized!(format in input);
            return Ok(Word::Hint(format.parse()?));
        }
        if word == "transparent" && !input.peek(Token![=]) {
            return Ok(Word::Transparent(None));
        }
        let make = match word.to_string().as_str() {
            "transparent" => {
                input.parse::<Token![=]>()?;
                return Ok(Word::Transparent(Some(input.parse()?)));
            }
            "code" => Word::Code,
            "class" => Word::Class,
            "details" => Word::Details,
            "hints" => Word::Hints,
            _ => {
                let known =
                    "expected `code`, `class`, `hint(…)`, `hints`, `details` or `transparent`";
                return Err(Error::new(word.span(), known));
            }
        };
        input.parse::<Token![=]>()?;
        Ok(make(input.parse()?))
    }
}

fn derive(input: &DeriveInput) -> Result<TokenStream> {
    let mut arms = Vec::new();
    match &input.data {
        Data::Enum(data) => {
            for v in &data.variants {
                let name = &v.ident;
                let said = said(&v.attrs, &v.fields, name.span())?;
                arms.push((pattern(&quote!(Self::#name), &v.fields), said));
            }
        }
        Data::Struct(data) => {
            let said = said(&input.attrs, &data.fields, input.ident.span())?;
            arms.push((pattern(&quote!(Self), &data.fields), said));
        }
        Data::Union(_) => return Err(Error::new(input.span(), "a union explains nothing")),
    }
    let each = |of: fn(&Said) -> &TokenStream| {
        let arms = arms.iter().map(|(pattern, said)| {
            let value = of(said);
            quote!(#pattern => #value)
        });
        quote!(match self { #(#arms,)* })
    };
    let (code, class) = (each(|s| &s.code), each(|s| &s.class));
    let (details, hints) = (each(|s| &s.details), each(|s| &s.hints));
    let name = &input.ident;
    let (generics, of, bounds) = input.generics.split_for_impl();
    // A variant's fields are all in scope and few are used. Where the trait is imported, importing it for the fields' methods repeats it.
    Ok(quote! {
        #[automatically_derived]
        #[allow(unused_variables, unused_imports, clippy::all, clippy::pedantic)]
        const _: () = {
            use crate::fault::Explain as _;
            impl #generics crate::fault::Explain for #name #of #bounds {
                fn code(&self) -> &'static str { #code }
                fn class(&self) -> crate::fault::Class { #class }
                fn details(&self) -> ::std::option::Option<::serde_json::Value> { #details }
                fn hints(&self) -> ::std::vec::Vec<::std::string::String> { #hints }
            }
        };
    })
}

/// Binds every field under its name.
fn pattern(path: &TokenStream, fields: &Fields) -> TokenStream {
    let names = names(fields);
    match fields {
        Fields::Named(_) => quote!(#path { #(#names),* }),
        Fields::Unnamed(_) => quote!(#path(#(#names),*)),
        Fields::Unit => path.clone(),
    }
}

fn names(fields: &Fields) -> Vec<Ident> {
    let named = |(at, field): (usize, &syn::Field)| {
        (field.ident.clone()).unwrap_or_else(|| format_ident!("_{at}", span = field.span()))
    };
    fields.iter().enumerate().map(named).collect()
}

fn said(attributes: &[Attribute], fields: &Fields, span: Span) -> Result<Said> {
    let (mut code, mut class, mut details, mut from) = (None, None, None, None);
    let mut hints = Vec::new();
    // Named apart from what the expressions see: a field may be called so.
    let list = Ident::new("list", Span::mixed_site());
    let attributes = attributes.iter().filter(|a| a.path().is_ident("explain"));
    for attribute in attributes {
        let words = attribute
            .parse_args_with(syn::punctuated::Punctuated::<Word, Token![,]>::parse_terminated)?;
        for word in words {
            match word {
                Word::Code(e) => code = Some(quote!(#e)),
                Word::Class(e) => class = Some(class_of(&e)),
                Word::Details(e) => details = Some(quote!(#e)),
                Word::Transparent(field) => from = Some(source(field, fields, attribute.span())?),
                Word::Hint(format) => hints.push(quote!(#list.push(::std::format!(#format));)),
                Word::Hints(e) => hints.push(quote! {
                    #list.extend(::std::iter::IntoIterator::into_iter(#e).map(::std::string::String::from));
                }),
            }
        }
    }
    let inherit = |method: &str| {
        let method = Ident::new(method, Span::call_site());
        from.as_ref().map(|field| quote!(#field.#method()))
    };
    let needed = |what: &str| Error::new(span, format!("#[explain(…)] has to give its {what}"));
    Ok(Said {
        code: (code.or_else(|| inherit("code"))).ok_or_else(|| needed("code"))?,
        class: (class.or_else(|| inherit("class"))).ok_or_else(|| needed("class"))?,
        details: (details.or_else(|| inherit("details"))).unwrap_or_else(|| quote!(None)),
        hints: if hints.is_empty() {
            inherit("hints").unwrap_or_else(|| quote!(::std::vec::Vec::new()))
        } else {
            quote!({ let mut #list = ::std::vec::Vec::new(); #(#hints)* #list })
        },
    })
}

/// `Input` is `Class::Input`; what is not one bare name is an expression.
fn class_of(class: &Expr) -> TokenStream {
    match class {
        Expr::Path(path) if path.path.get_ident().is_some() => quote!(crate::fault::Class::#path),
        other => quote!(#other),
    }
}

/// The field that a transparent variant speaks for.
fn source(field: Option<Ident>, fields: &Fields, span: Span) -> Result<Ident> {
    let mut names = names(fields);
    match field {
        Some(name) if names.contains(&name) => Ok(name),
        Some(name) => Err(Error::new(name.span(), "there is no such field")),
        None if names.len() == 1 => Ok(names.remove(0)),
        None => Err(Error::new(span, "which field? `transparent = field`")),
    }
}

#[cfg(test)]
mod tests {
    use super::derive;

    fn refused(text: &str) -> String {
        let input = syn::parse_str(text).unwrap();
        derive(&input).unwrap_err().to_string()
    }

    #[test]
    fn what_is_missing_or_unknown_does_not_compile() {
        let none = refused("enum E { A }");
        assert_eq!(none, "#[explain(…)] has to give its code");
        let class = refused(r#"enum E { #[explain(code = "a")] A }"#);
        assert_eq!(class, "#[explain(…)] has to give its class");
        let word = refused(r#"enum E { #[explain(help("a"))] A }"#);
        assert!(word.starts_with("expected `code`"), "{word}");
        let which = refused("enum E { #[explain(transparent)] A(B, C) }");
        assert_eq!(which, "which field? `transparent = field`");
        let field = refused("enum E { #[explain(transparent = c)] A { b: B } }");
        assert_eq!(field, "there is no such field");
        assert_eq!(refused("union U { a: u8 }"), "a union explains nothing");
    }
}
