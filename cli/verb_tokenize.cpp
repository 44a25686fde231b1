#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>

#include "anyfp8/model/tokenizer.h"
#include "cli/arguments.h"
#include "cli/terminal.h"
#include "cli/verbs.h"

namespace anyfp8::cli {
namespace {

struct Arguments {
  std::filesystem::path model;
  bool decode = false;
  bool json = false;
};

// Every byte, as it is.
std::string read_stdin() {
  std::string text;
  char piece[1 << 16];
  for (size_t got; (got = std::fread(piece, 1, sizeof(piece), stdin)) > 0;) text.append(piece, got);
  if (std::ferror(stdin) != 0)
    throw fail(ErrorCode::kIo, "standard input cannot be read: {}", std::strerror(errno));
  return text;
}

Error malformed(std::string_view found) {
  return fail(
      ErrorCode::kInvalidArgument,
      "standard input has `{}`; --decode reads ids as numbers, or the JSON that tokenize --json prints",
      found);
}

// "1 2 3", "1,2,3", [1, 2, 3] and {"ids": [1, 2, 3]} are all read.
std::vector<int> parse_ids(std::string_view text) {
  constexpr std::string_view kBetween = " \t\r\n,";
  constexpr size_t kShown = 40;
  const size_t begin = std::min(text.find_first_not_of(kBetween), text.size());
  std::vector<int> ids;
  if (begin < text.size() && (text[begin] == '{' || text[begin] == '[')) {
    const nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
    const nlohmann::json list = json.is_object() && json.contains("ids") ? json["ids"] : json;
    if (!list.is_array()) throw malformed(text.substr(begin, kShown));
    for (const nlohmann::json& id : list) {
      if (!id.is_number_unsigned() || id.get<uint64_t>() > INT32_MAX)
        throw malformed(id.dump().substr(0, kShown));
      ids.push_back(id.get<int>());
    }
    return ids;
  }
  for (size_t at = begin; at < text.size();) {
    const size_t end = std::min(text.find_first_of(kBetween, at), text.size());
    int id = 0;
    const auto [stop, error] = std::from_chars(text.data() + at, text.data() + end, id);
    if (error != std::errc{} || stop != text.data() + end || id < 0)
      throw malformed(text.substr(at, std::min(end - at, kShown)));
    ids.push_back(id);
    at = std::min(text.find_first_not_of(kBetween, end), text.size());
  }
  return ids;
}

int run_tokenize(const Arguments& arguments) {
  const Tokenizer tokenizer = Tokenizer::open(arguments.model);
  const std::string input = read_stdin();
  if (arguments.decode) {
    const std::vector<int> ids = parse_ids(input);
    for (const int id : ids) {
      if (!tokenizer.has_token(id)) {
        throw fail(ErrorCode::kInvalidArgument, "{} is the id of no token of {}; the highest is {}", id,
                   arguments.model.string(), tokenizer.vocab_size() - 1);
      }
    }
    const std::string text = tokenizer.decode(ids, /*skip_special=*/false);
    if (arguments.json) {
      print_json({{"text", text}});
    } else {
      write_out(text);
    }
    return 0;
  }
  const std::vector<int> ids = tokenizer.encode(input);
  if (arguments.json) {
    write_out(nlohmann::json({{"ids", ids}}).dump() + "\n");
  } else {
    print_out("{}\n", fmt::join(ids, " "));
  }
  return 0;
}

}  // namespace

void add_tokenize(CLI::App& app, Run& run) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = add_verb(app, "tokenize", "Turn text on stdin into token ids, or back",
                            "printf 'In the beginning' | anyfp8 tokenize models/kjv-qwen3-fp8");
  add_model(*verb, arguments->model);
  verb->add_flag("--decode", arguments->decode, "Read ids, print their text, byte for byte");
  add_json(*verb, arguments->json);
  verb->callback([arguments, &run] { run = [arguments] { return run_tokenize(*arguments); }; });
}

}  // namespace anyfp8::cli
