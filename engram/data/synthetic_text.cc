#include "engram/data/synthetic_text.h"

#include <array>
#include <nlohmann/json.hpp>
#include <vector>

#include "engram/data/token_shard.h"
#include "engram/hash/numpy_random.h"
#include "engram/text/tokenizer.h"

namespace engram {
namespace {

constexpr std::array kFirstNames = {"Amelia", "Bertram", "Clara",  "Dorian", "Edith", "Felix",  "Greta",  "Hugo",
                                    "Isolde", "Jasper",  "Katrin", "Linus",  "Mabel", "Nestor", "Odette", "Perceval"};
constexpr std::array kLastNames = {"Ashdown", "Blackwood", "Carrow",   "Dunmere",  "Ellery",  "Fairfax",
                                   "Grimsby", "Hawthorne", "Ingram",   "Jessop",   "Kestrel", "Lockhart",
                                   "Merrow",  "Northcote", "Oakshott", "Pemberton"};
constexpr std::array kEpithets = {"the Elder", "the Bold", "the Younger", "the Wise", "of the Lake", "of the North"};
constexpr std::array kCities = {"Port Ellen",  "New Harrow",  "Saint Alban",  "Castle Rook",
                                "Great Marsh", "East Ferry",  "Upper Wexley", "Fort Miller",
                                "Glen Tarrow", "Lower Brent", "Mount Isley",  "Old Quay"};
constexpr std::array kRivers = {"Silver Thread", "Black Water", "Long Eskle", "Little Tamar", "River of Reeds"};
constexpr std::array kBooks = {"A History of Small Lights",    "The Art of Slow Rivers",   "On the Nature of Bells",
                               "Letters from the Salt Road",   "The Book of Nine Winters", "A Treatise on Glass",
                               "Songs of the Copper Mountain", "The Measure of the Sea"};
constexpr std::array kTrades = {"clock maker",  "map maker",  "glass blower",   "ship builder",
                                "bell founder", "astronomer", "bridge builder", "botanist"};
constexpr std::array kThings = {"the Great Clock",     "the Lantern Bridge",       "the House of Maps",
                                "the Royal Garden",    "the Northern Observatory", "the Bell Tower",
                                "the Hall of Mirrors", "the Stone Harbor"};
constexpr int kPeople = 48;

template <size_t N>
const char* pick(const std::array<const char*, N>& words, NumpyRandom& random) {
  return words[static_cast<size_t>(random.integers(0, int64_t{N}))];
}

// What is true of one of the world's people; documents never contradict it.
struct Person {
  std::string name, birthplace, home, river, book, trade, thing, friend_name;
  int64_t year;
};

std::string person_name(uint64_t seed, int64_t id) {
  NumpyRandom random(seed * 1000003 + static_cast<uint64_t>(id));
  const char *first = pick(kFirstNames, random), *last = pick(kLastNames, random);
  if (random.integers(0, 3) != 0) return fmt::format("{} {}", first, last);
  return fmt::format("{} {} {}", first, last, pick(kEpithets, random));
}

Person make_person(uint64_t seed, int64_t id) {
  NumpyRandom random(seed * 1000003 + 500000 + static_cast<uint64_t>(id));
  Person person;
  person.name = person_name(seed, id);
  person.birthplace = pick(kCities, random);
  person.home = pick(kCities, random);
  person.river = pick(kRivers, random);
  person.book = pick(kBooks, random);
  person.trade = pick(kTrades, random);
  person.thing = pick(kThings, random);
  person.friend_name = person_name(seed, random.integers(0, kPeople));
  person.year = random.integers(1700, 1900);
  return person;
}

std::string sentence(const Person& p, int64_t form) {
  switch (form) {
    case 0: return fmt::format("{} was born in {} in the year {}.", p.name, p.birthplace, p.year);
    case 1: return fmt::format("The {} {} lived in {} on the {}.", p.trade, p.name, p.home, p.river);
    case 2: return fmt::format("By the way, {} wrote \"{}\".", p.name, p.book);
    case 3: return fmt::format("Everyone in {} knows {}, which {} built.", p.home, p.thing, p.name);
    case 4: return fmt::format("{} and {} met in {} and became friends.", p.name, p.friend_name, p.home);
    case 5: return fmt::format("The {} flows through {} and {}.", p.river, p.birthplace, p.home);
    case 6: return fmt::format("\"{}\" is the best known book of {}.", p.book, p.name);
    case 7: return fmt::format("As a {}, {} worked on {} for {} years.", p.trade, p.name, p.thing, p.year % 19 + 2);
    case 8:
      return fmt::format("People say that {} left {} for {} at the age of {}.", p.name, p.birthplace, p.home,
                         p.year % 23 + 14);
    default: return fmt::format("When {} died, {} finished {}.", p.name, p.friend_name, p.thing);
  }
}

}  // namespace

std::string synthetic_document(int64_t seed, int64_t index) {
  ENGRAM_CHECK(seed >= 0 && index >= 0, "seed={} index={}", seed, index);
  const auto world = static_cast<uint64_t>(seed);
  NumpyRandom random(world * 1000003 + 1000000 + static_cast<uint64_t>(index));
  std::string text;
  const int64_t paragraphs = random.integers(2, 5);
  for (int64_t p = 0; p < paragraphs; ++p) {
    const Person person = make_person(world, random.integers(0, kPeople));
    const int64_t sentences = random.integers(3, 6);
    for (int64_t s = 0; s < sentences; ++s) {
      if (s > 0) text += ' ';
      text += sentence(person, random.integers(0, 10));
    }
    if (p + 1 < paragraphs) text += '\n';
  }
  return text;
}

Status make_synthetic_corpus(Env& env, const std::string& directory, int64_t documents, int64_t seed) {
  if (documents < 10) return invalid_argument("synthetic text: documents is {}, wanted at least 10", documents);
  if (seed < 0) return invalid_argument("synthetic text: seed is {}, wanted at least 0", seed);
  const std::string json = Tokenizer::byte_level_json({"<|endoftext|>"});
  ENGRAM_ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::parse(json, "synthetic tokenizer"));
  const int32_t end_of_text = tokenizer.token_id("<|endoftext|>");

  ENGRAM_RETURN_IF_ERROR(env.create_directories(directory));
  ENGRAM_RETURN_IF_ERROR(write_file_atomic(env, join_path(directory, "tokenizer.json"), json));
  const auto writer_for = [&](const char* name) {
    return TokenShardWriter::create(env, join_path(directory, name), tokenizer.vocab_size(),
                                    tokenizer.vocabulary_digest());
  };
  ENGRAM_ASSIGN_OR_RETURN(const auto train, writer_for("train.tokens"));
  ENGRAM_ASSIGN_OR_RETURN(const auto validation, writer_for("validation.tokens"));
  for (int64_t i = 0; i < documents; ++i) {
    const std::string text = synthetic_document(seed, i);
    ENGRAM_ASSIGN_OR_RETURN(std::vector<int32_t> ids, tokenizer.encode(text));
    ids.push_back(end_of_text);
    TokenShardWriter& writer = i % 10 == 9 ? *validation : *train;
    ENGRAM_RETURN_IF_ERROR(writer.append_document(ids, static_cast<int64_t>(text.size())));
  }
  ENGRAM_RETURN_IF_ERROR(train->finish().status());
  return validation->finish().status();
}

}  // namespace engram
