//! Just enough of Rust's lexical grammar to tell code from comments and strings.

/// A source file in two views; both keep the line structure of the original.
pub struct Source {
    /// The code, with comments and the contents of literals blanked.
    pub code: String,
    /// The comments, with everything else blanked.
    pub comments: String,
}

/// Splits a source file into its code and its comments.
pub fn split(text: &str) -> Source {
    let chars: Vec<char> = text.chars().collect();
    let mut source = Source {
        code: String::new(),
        comments: String::new(),
    };
    let mut at = 0;
    while at < chars.len() {
        let (end, is_comment) = match comment_end(&chars, at) {
            Some(end) => (end, true),
            None => (literal_end(&chars, at).unwrap_or(at), false),
        };
        if end == at {
            push(&mut source, chars[at], Some(false));
            at += 1;
            continue;
        }
        for &c in &chars[at..end] {
            push(&mut source, c, is_comment.then_some(true));
        }
        at = end;
    }
    source
}

/// Adds a character to the code (`Some(false)`), the comments (`Some(true)`) or neither view, and a blank elsewhere.
fn push(source: &mut Source, c: char, comment: Option<bool>) {
    let shown_in = |view: bool| {
        if c == '\n' || comment == Some(view) {
            c
        } else {
            ' '
        }
    };
    source.code.push(shown_in(false));
    source.comments.push(shown_in(true));
}

fn starts_with(chars: &[char], at: usize, text: &str) -> bool {
    text.chars()
        .enumerate()
        .all(|(i, c)| chars.get(at + i) == Some(&c))
}

/// The end of the comment that starts here, if one does; block comments nest.
fn comment_end(chars: &[char], start: usize) -> Option<usize> {
    let mut at = start;
    if starts_with(chars, at, "//") {
        while at < chars.len() && chars[at] != '\n' {
            at += 1;
        }
        return Some(at);
    }
    let mut depth = 0;
    while at < chars.len() {
        if starts_with(chars, at, "/*") {
            depth += 1;
            at += 2;
        } else if depth == 0 {
            return None;
        } else if starts_with(chars, at, "*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return Some(at);
            }
        } else {
            at += 1;
        }
    }
    (depth > 0).then_some(at)
}

/// The end of the string or character literal that starts here, if one does.
fn literal_end(chars: &[char], start: usize) -> Option<usize> {
    match chars[start] {
        '"' => Some(quoted_end(chars, start + 1, '"')),
        'r' if !start
            .checked_sub(1)
            .is_some_and(|before| is_word(chars[before]) && chars[before] != 'b') =>
        {
            raw_string_end(chars, start)
        }
        // 'a' and '\n' are characters, 'a is a lifetime.
        '\'' if chars.get(start + 1) == Some(&'\\') || chars.get(start + 2) == Some(&'\'') => {
            Some(quoted_end(chars, start + 1, '\''))
        }
        _ => None,
    }
}

fn quoted_end(chars: &[char], mut at: usize, quote: char) -> usize {
    while at < chars.len() && chars[at] != quote {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

fn raw_string_end(chars: &[char], start: usize) -> Option<usize> {
    let hashes = chars[start + 1..].iter().take_while(|c| **c == '#').count();
    let mut at = start + 1 + hashes;
    if chars.get(at) != Some(&'"') {
        return None;
    }
    let close = format!("\"{}", "#".repeat(hashes));
    at += 1;
    while at < chars.len() && !starts_with(chars, at, &close) {
        at += 1;
    }
    Some((at + close.len()).min(chars.len()))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether `name` stands in the line and is not a part of a longer word.
pub fn has_word(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + name.len()..].chars().next();
        let open_end = name.ends_with(is_word) && after.is_some_and(is_word);
        !before.is_some_and(is_word) && !open_end
    })
}

/// The code with every item under `#[cfg(test)]` blanked.
pub fn without_tests(code: &str) -> String {
    let mut rest = code;
    let mut kept = String::new();
    while let Some(at) = rest.find("#[cfg(test)]") {
        let (before, from) = rest.split_at(at);
        let (test, after) = from.split_at(item_end(from));
        kept.push_str(before);
        kept.extend(test.chars().map(|c| if c == '\n' { c } else { ' ' }));
        rest = after;
    }
    kept + rest
}

/// The end of the item that starts the code: its first `;`, or the brace that closes its first one.
fn item_end(code: &str) -> usize {
    let mut depth = 0;
    for (at, c) in code.char_indices() {
        match c {
            ';' if depth == 0 => return at + 1,
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                if depth <= 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    code.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_and_comments_keep_their_lines() {
        let source = split("a // b\n/* c /* d */\n e */ f\n");
        assert_eq!(
            source.code.lines().map(str::trim).collect::<Vec<_>>(),
            ["a", "", "f"]
        );
        let comments: Vec<_> = source.comments.lines().map(str::trim).collect();
        assert_eq!(comments, ["// b", "/* c /* d */", "e */"]);
    }

    #[test]
    fn literals_are_blanked() {
        for literal in [
            r#""a // b""#,
            r##"r#"a "x" b"#"##,
            r#""\" b""#,
            r#"b"a""#,
            r#"br"a""#,
        ] {
            let source = split(&format!("x({literal}) y"));
            assert!(
                source.code.starts_with("x(") && source.code.ends_with(") y"),
                "{literal}"
            );
            assert!(
                !source.code.contains('a') && source.comments.trim().is_empty(),
                "{literal}"
            );
        }
    }

    #[test]
    fn quotes_in_characters_and_lifetimes_open_nothing() {
        for code in [
            "f('\"') // c",
            "f('\\'') // c",
            "fn f<'a>(x: &'a str) // c",
            "for // c",
        ] {
            assert_eq!(split(code).comments.trim(), "// c", "{code}");
        }
    }

    #[test]
    fn words_are_whole() {
        assert!(has_word("use std::fs;", "std::fs") && has_word("use std::fs::read;", "std::fs"));
        assert!(!has_word("use std::fsx;", "std::fs") && !has_word("my_print!(x)", "print!"));
    }

    #[test]
    fn test_items_are_blanked_and_what_follows_is_kept() {
        let code = "a\n#[cfg(test)]\nmod tests;\nb\n#[cfg(test)]\nmod t { fn f() {} }\nc";
        let kept = without_tests(code);
        assert_eq!(
            kept.lines().map(str::trim).collect::<Vec<_>>(),
            ["a", "", "", "b", "", "", "c"]
        );
    }
}
