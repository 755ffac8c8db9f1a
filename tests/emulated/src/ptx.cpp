// Inline PTX, as cubecl writes it, to calls of include/emu_ptx.h. What is not known does not compile, and says what it was.
#include "compile.hpp"

#include <regex>

namespace {
typedef std::vector<std::string> Texts;

// asm volatile("instruction" : "=r"(result.i_0), .. : "l"(a), .. : "memory");
struct Statement {
    std::string ptx;
    Texts operands;
    size_t begin, end;
};

size_t skip_blanks(const std::string& text, size_t at) { return text.find_first_not_of(" \t\n", at); }

// From an opening parenthesis to behind the closing one.
size_t behind_parentheses(const std::string& text, size_t at) {
    int depth = 0;
    for (bool quoted = false; at < text.size(); at++) {
        if (text[at] == '\\') at++;
        else if (text[at] == '"') quoted = !quoted;
        else if (!quoted && text[at] == '(') depth++;
        else if (!quoted && text[at] == ')' && --depth == 0) return at + 1;
    }
    return std::string::npos;
}

bool find_statement(const std::string& text, size_t from, Statement& out) {
    for (size_t at = from; (at = text.find("asm", at)) != std::string::npos; at += 3) {
        if (at && (isalnum(text[at - 1]) || text[at - 1] == '_')) continue;
        size_t open = skip_blanks(text, at + 3);
        if (text.compare(open, 8, "volatile") == 0) open = skip_blanks(text, open + 8);
        if (open == std::string::npos || text[open] != '(') continue;
        size_t close = behind_parentheses(text, open), end = close == std::string::npos ? close : skip_blanks(text, close);
        if (end == std::string::npos || text[end] != ';') continue;
        out = {"", {}, at, end + 1};
        size_t place = text.find('"', open) + 1;
        for (; text[place] != '"'; place++) {
            if (text[place] != '\\') out.ptx += text[place];
            else out.ptx += text[++place] == 'n' || text[place] == 't' ? ' ' : text[place];
        }
        // Each operand is a constraint in quotes and an expression in parentheses; what is clobbered has no parentheses.
        while ((place = text.find('"', place + 1)) != std::string::npos && place < close) {
            place = text.find('"', place + 1);
            size_t begin = skip_blanks(text, place + 1);
            if (text[begin] != '(') continue;
            size_t behind = behind_parentheses(text, begin);
            out.operands.push_back(text.substr(begin + 1, behind - begin - 2));
            place = behind - 1;
        }
        return true;
    }
    return false;
}

// The arguments of an instruction: "{%0, %1}, [%2], 16" as {{"a", "b"}, {"c"}, {"16"}}, operands by their expressions.
std::vector<Texts> arguments_of(const std::string& text, const Texts& operands) {
    std::vector<Texts> out;
    bool grouped = false;
    std::string word;
    auto flush = [&] {
        if (word.empty()) return;
        size_t number = word[0] == '%' ? strtoul(word.c_str() + 1, nullptr, 10) : operands.size();
        if (!grouped || out.empty()) out.push_back({});
        out.back().push_back(number < operands.size() ? operands[number] : word);
        word.clear();
    };
    for (char c : text) {
        if (c == '{') grouped = true, out.push_back({});
        else if (c == '}' || c == ',' || c == ';' || c == ' ' || c == '[' || c == ']') {
            flush();
            if (c == '}') grouped = false;
        } else word += c;
    }
    return out;
}

std::string joined(const Texts& words, const std::string& before = "", const std::string& after = "") {
    std::string out;
    for (const auto& word : words) out += (out.empty() ? "" : ", ") + before + word + after;
    return out;
}

// A call that fills an array, which then goes to the operands.
std::string assigned(const Texts& to, const std::string& from) {
    std::string out;
    for (size_t each = 0; each < to.size(); each++) out += to[each] + " = " + from + "[" + std::to_string(each) + "]; ";
    return out;
}

std::string mma(const std::smatch& names, const std::vector<Texts>& given) {
    std::string k = names[1], a = names[3], b = names[4], sum = names[2] == "f32" ? "float" : names[2] == "s32" ? "int" : "";
    std::string known = " tf32 f16 bf16 s8 u8 ";
    if (sum.empty() || names[5] != names[2] || known.find(" " + a + " ") == std::string::npos || known.find(" " + b + " ") == std::string::npos || given.size() != 4) return "";
    return "{ unsigned __a[] = {" + joined(given[1]) + "}, __b[] = {" + joined(given[2]) + "}; " + sum + " __c[4] = {" + joined(given[3], "(" + sum + ")(", ")") + "}, __d[4]; __emu_mma<__emu_" + a + ", __emu_" + b + ", " + sum + ", " + k + ">(__COUNTER__, __d, __a, __b, __c); " + assigned(given[0], "__d") + "}";
}

std::string matrices(bool stores, const std::string& count, bool transposed, const std::vector<Texts>& given) {
    if (given.size() != 2) return "";
    const Texts &registers = given[stores ? 1 : 0], &row = given[stores ? 0 : 1];
    std::string call = "__emu_matrices<" + count + ", " + (transposed ? "true" : "false") + ", " + (stores ? "true" : "false") + ">(__COUNTER__, __r, " + row[0] + "); ";
    return "{ unsigned __r[" + count + "]" + (stores ? " = {" + joined(registers) + "}; " + call : " = {}; " + call + assigned(registers, "__r")) + "}";
}

std::string atomic(const std::string& operation, const std::string& type, const std::vector<Texts>& given) {
    if (given.size() != 3 || given[0].size() != 1) return "";
    std::string name = operation == "add" ? "atomicAdd" : operation == "min" ? "atomicMin" : operation == "max" ? "atomicMax" : "atomicExch";
    std::string narrow = type == "f16" ? "__half" : type == "bf16" ? "__nv_bfloat16" : type.find("x2") != std::string::npos ? "?" : "";
    if (narrow == "?") return "";
    if (narrow.empty()) return given[0][0] + " = " + name + "(" + given[1][0] + ", " + given[2][0] + ");";
    return given[0][0] + " = __builtin_bit_cast(unsigned short, " + name + "((" + narrow + "*)" + given[1][0] + ", __builtin_bit_cast(" + narrow + ", " + given[2][0] + ")));";
}

// Empty where the instruction is not known.
std::string call_of(const std::string& ptx, const Texts& operands) {
    std::smatch parts;
    size_t begin = skip_blanks(ptx, 0), gap = ptx.find(' ', begin);
    if (begin == std::string::npos || gap == std::string::npos) return "";
    std::string code = ptx.substr(begin, gap - begin);
    if (ptx.find("elect.sync") != std::string::npos && operands.size() == 1)
        return "{ unsigned active = __activemask(); " + operands[0] + " = (unsigned)(__ffs((int)active) - 1) == __emu->lane; }";
    if (ptx.find(';') != ptx.rfind(';')) return "";
    auto given = arguments_of(ptx.substr(gap), operands);
    auto is = [&](const char* pattern) { return std::regex_match(code, parts, std::regex(pattern)); };
    if (is("atom\\.relaxed\\.(add|min|max|exch)(?:\\.noftz)?\\.([a-z0-9]+)")) return atomic(parts[1], parts[2], given);
    if (is("(add|sub)\\.sat\\.s32") && given.size() == 3) return given[0][0] + " = __emu_" + parts[1].str() + "_sat(" + given[1][0] + ", " + given[2][0] + ");";
    if (is("(min|max)\\.NaN\\.f32") && given.size() == 3) return given[0][0] + " = __emu_" + parts[1].str() + "_nan(" + given[1][0] + ", " + given[2][0] + ");";
    if (is("mma\\.sync\\.aligned\\.m16n8k(\\d+)\\.row\\.col\\.(\\w+)\\.(\\w+)\\.(\\w+)\\.(\\w+)")) return mma(parts, given);
    if (is("ldmatrix\\.sync\\.aligned\\.m8n8\\.x(\\d)(\\.trans)?\\.shared(?:::cta)?\\.b16")) return matrices(false, parts[1], parts[2].matched, given);
    if (is("stmatrix\\.sync\\.aligned\\.m8n8\\.x(\\d)(\\.trans)?\\.shared(?:::cta)?\\.b16")) return matrices(true, parts[1], parts[2].matched, given);
    if (is("cp\\.async\\.(?:ca|cg)\\.shared(?:::cta)?\\.global") && given.size() == 4) return "__emu_cp_async<" + given[2][0] + ">(" + given[0][0] + ", " + given[1][0] + ", " + given[3][0] + ");";
    if (is("cp\\.async\\.mbarrier\\.arrive\\.shared(?:::cta)?\\.b64") && given.size() == 1) return "__emu_cp_async_arrive(" + given[0][0] + ");";
    return "";
}
}

std::string emu_without_ptx(const std::string& text) {
    std::string out;
    size_t last = 0;
    for (Statement statement; find_statement(text, last, statement); last = statement.end) {
        std::string call = call_of(statement.ptx, statement.operands);
        if (call.empty()) call = "static_assert(false, \"the emulator does not know this PTX: " + std::regex_replace(statement.ptx, std::regex("\""), "'") + "\");";
        out += text.substr(last, statement.begin - last) + call;
    }
    return out + text.substr(last);
}
