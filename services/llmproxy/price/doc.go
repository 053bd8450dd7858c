// Package price says what a call to the provider costs, and the most that it can cost. It is pure; only Load reads a file.
//
// Prices are kept in nano-dollars per million tokens, so $0.025 is exact, and a call is rounded up once, to a whole nano-dollar. A call costs by what it used of
// four kinds of tokens: input, input that came from the provider's cache, input that was put into it, and output, of which reasoning is a part. Where a model
// has a limit for long contexts, a call with more input than that costs the higher rates from its first token on. Each service tier has rates of its own. A tier
// that the table does not have costs what the dearest one does, so a new one is never too cheap.
//
// Default is a table of the provider's public prices, with the day on which they were read. It is never fetched while running. What an installation pays
// otherwise (another provider, a region's surcharge, a newer price) stands in a file for Load:
//
//	{
//	  "as_of": "2026-11-24",
//	  "models": {
//	    "my-model": {"input": "2.50", "cached_input": 0.25, "output": "15"},
//	    "my-large-model": {
//	      "input": "4", "cached_input": "0.40", "cache_write": "5", "output": "20", "max_output": 128000,
//	      "long_context": {"above": 272000, "input": "8", "cached_input": "0.80", "cache_write": "10", "output": "30"},
//	      "tiers": {
//	        "flex": {"input": "2", "cached_input": "0.20", "output": "10"},
//	        "priority": {"input": "8", "output": "40", "long_context": {"above": 272000, "input": "16", "output": "60"}}
//	      }
//	    }
//	  }
//	}
//
// Amounts are US dollars per million tokens, as strings or numbers with at most nine decimals, read exactly. input and output must be there; cached_input and
// cache_write are as dear as input when they are not. A tier without long_context costs, above the model's own limit, whichever is dearer of its own rates and the model's
// long ones. An entry replaces the whole one of that name. as_of is the day that the table then bears.
package price
